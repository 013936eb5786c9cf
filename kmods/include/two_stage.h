/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Unload in two stages: for a module that is called by others who do not ask.
 *
 * The kernel's use count protects a module from those who raise it before they
 * call. A packet hook, a destructor on a packet or a file in /proc has callers
 * who do not: the count is zero, and yet someone is inside. The answer of the
 * discussion of 2002 (linux-kernel, "module unload races") is a sequence:
 *
 *   1. check	the count of users; with users in it the answer is "busy";
 *   2. stop	remove only what is visible, so that nobody comes any more;
 *   3. quiesce	wait, outside the module, until everyone who had found the way
 *		in before that has either left or been counted;
 *   4. check	the count again. Nobody: the module may go. Somebody came in
 *		between: back in service, or delay until the last one has left.
 *
 * A module's exit function cannot refuse on Linux. So the first stage (1 to 4)
 * is asked for before delete_module(2), and the module holds a reference to
 * itself until it has passed: until then delete_module answers EWOULDBLOCK.
 * The second stage is the exit function, which frees what is left.
 *
 *	          two_stage_begin()
 *	   OUT ----------------------> SERVING <---------------+
 *	    ^                            |                     |
 *	    |          two_stage_stop()  |                     | two_stage_recheck():
 *	    |          nobody counted    |                     | somebody came, -EAGAIN
 *	    |                            v                     |
 *	    |                         STOPPED -----------------+
 *	    |                          |   |                   |
 *	    |    two_stage_recheck():  |   |  somebody came,   | two_stage_resume()
 *	    |    nobody, 0             |   |  -EINPROGRESS     |
 *	    |                          v   v                   |
 *	    +----------------------- READY <-- DELAYED --------+
 *	      two_stage_end()              the last one left
 *
 * Who may call what:
 *
 * - two_stage_enter() and two_stage_leave(): whoever is inside, in any context.
 *   Enter before the first thing that outlives the call (a file that stays
 *   open, a destructor that is hung on something), leave when that is over. What
 *   the caller's own protection covers (a netfilter hook runs under RCU, a
 *   function of /proc between two marks of fs/proc) need not be counted; quiesce
 *   waits for it.
 * - two_stage_stop(), _recheck(), _release(), _unload(), _resume(): a process
 *   that may sleep, in a context that keeps the module's text by other means: the
 *   store function of a module parameter does (removing the parameter waits for
 *   it), a function that was called through the module's own file in /proc does
 *   not, and would wait for itself in stop.
 * - two_stage_begin(): the module's init. two_stage_end(): the module's exit.
 *
 * One struct two_stage for a module, in static memory.
 */
#ifndef TWO_STAGE_H
#define TWO_STAGE_H

#include <linux/atomic.h>
#include <linux/errno.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/rcupdate.h>
#include <linux/wait_bit.h>
#include <linux/workqueue.h>

/**
 * enum two_stage_state - how far a module is on its way out
 * @TWO_STAGE_OUT: not begun, or ended: nothing of it is visible
 * @TWO_STAGE_SERVING: in service; delete_module is refused
 * @TWO_STAGE_STOPPED: out of service, not looked at again yet
 * @TWO_STAGE_DELAYED: out of service; the last user makes it READY
 * @TWO_STAGE_READY: out of service and empty; delete_module is let through
 */
enum two_stage_state {
	TWO_STAGE_OUT,
	TWO_STAGE_SERVING,
	TWO_STAGE_STOPPED,
	TWO_STAGE_DELAYED,
	TWO_STAGE_READY,
};

/**
 * enum two_stage_policy - what an unload that meets users does
 * @TWO_STAGE_RETURN: it fails; the module is, or goes back, in service
 * @TWO_STAGE_DELAY: the module stops, and goes when the last one has left
 */
enum two_stage_policy {
	TWO_STAGE_RETURN,
	TWO_STAGE_DELAY,
};

/**
 * struct two_stage_ops - what the module does at each step; all may sleep
 * @start: makes the module work, what is visible last; 0, or a negative errno
 *	and then nothing is left behind. Called again by a return to service
 * @stop: takes away what is visible, and nothing else. Who is inside stays
 *	inside, and finds everything he needs
 * @quiesce: waits for everyone who may have found the way in before @stop and
 *	is not counted (RCU readers, timers, work items, threads), and leaves
 *	none of them behind
 */
struct two_stage_ops {
	int (*start)(void);
	void (*stop)(void);
	void (*quiesce)(void);
};

/**
 * struct two_stage - the unload protocol of one module
 * @ops: the module's part
 * @owner: the module
 * @lock: one transition at a time; initialised by two_stage_begin(), so that
 *	a module that is OUT must not be asked to take it
 * @state: see enum two_stage_state; written under @lock
 * @users: those inside that two_stage_enter() has counted
 * @last_left: takes the module from DELAYED to READY
 */
struct two_stage {
	const struct two_stage_ops *ops;
	struct module *owner;
	struct mutex lock;	/* for state, and what leads from one to another */
	enum two_stage_state state;
	atomic_t users;
	struct work_struct last_left;
};

/**
 * DEFINE_TWO_STAGE() - define a module's unload protocol
 * @name: name of the struct two_stage, static
 * @operations: its struct two_stage_ops
 */
#define DEFINE_TWO_STAGE(name, operations)	\
	static struct two_stage name = {	\
		.ops = &(operations),		\
		.owner = THIS_MODULE,		\
	}

/**
 * two_stage_users() - how many are inside
 * @ts: the module's protocol
 *
 * Return: a number that may be old by the time it is looked at, unless the
 * module has stopped: then it can only fall.
 */
static inline int two_stage_users(const struct two_stage *ts)
{
	return atomic_read(&ts->users);
}

/**
 * two_stage_name() - the state in a word
 * @ts: the module's protocol
 *
 * Return: "out", "serving", "stopped", "delayed" or "ready".
 */
static inline const char *two_stage_name(const struct two_stage *ts)
{
	static const char * const names[] = {
		[TWO_STAGE_OUT]		= "out",
		[TWO_STAGE_SERVING]	= "serving",
		[TWO_STAGE_STOPPED]	= "stopped",
		[TWO_STAGE_DELAYED]	= "delayed",
		[TWO_STAGE_READY]	= "ready",
	};

	return names[READ_ONCE(ts->state)];
}

/**
 * two_stage_enter() - somebody is inside from now on
 * @ts: the module's protocol
 *
 * In any context, by someone whom quiesce would wait for, or who is counted.
 */
static inline void two_stage_enter(struct two_stage *ts)
{
	atomic_inc(&ts->users);
}

/**
 * two_stage_leave() - somebody whom two_stage_enter() counted is out
 * @ts: the module's protocol
 *
 * In any context; at the end of the function that calls it. What is left of that
 * function after the count has fallen is waited for, see two_stage_drain().
 */
static inline void two_stage_leave(struct two_stage *ts)
{
	/* A full barrier; pairs with the one in two_stage_recheck(). */
	if (!atomic_dec_and_test(&ts->users))
		return;

	wake_up_var(&ts->users);
	if (READ_ONCE(ts->state) == TWO_STAGE_DELAYED)
		schedule_work(&ts->last_left);
}

/**
 * two_stage_drain() - wait for those who have left, but still have to return
 *
 * A count can only be lowered from inside. After the last one has done that he
 * has a few instructions of the module still before him, and may have been
 * preempted there. Interrupts and softirqs are RCU readers; a task is out when
 * it has gone to sleep or to user space of its own accord, which is what RCU
 * tasks waits for. Without CONFIG_TASKS_RCU a kernel that preempts itself has
 * nothing to wait with.
 */
static inline void two_stage_drain(void)
{
	synchronize_rcu();
	synchronize_rcu_tasks();
}

/* delete_module is let through from here on. Under ts->lock. */
static inline void __two_stage_ready(struct two_stage *ts)
{
	lockdep_assert_held(&ts->lock);
	two_stage_drain();
	WRITE_ONCE(ts->state, TWO_STAGE_READY);
	module_put(ts->owner);
}

/*
 * A work item, because the last to leave may be a softirq, and because exit can
 * wait for a work item to return.
 */
static inline void two_stage_last_left(struct work_struct *work)
{
	struct two_stage *ts = container_of(work, struct two_stage, last_left);

	mutex_lock(&ts->lock);
	if (ts->state == TWO_STAGE_DELAYED && !two_stage_users(ts))
		__two_stage_ready(ts);
	mutex_unlock(&ts->lock);
}

/**
 * two_stage_begin() - put a module in service
 * @ts: the module's protocol
 *
 * In init, as its last step: when start has succeeded, others come in.
 *
 * Return: 0, or what start failed with, and then there is nothing to end.
 */
static inline int two_stage_begin(struct two_stage *ts)
{
	int err;

	mutex_init(&ts->lock);
	INIT_WORK(&ts->last_left, two_stage_last_left);
	/* Cannot fail in init: whoever loads the module holds it. */
	__module_get(ts->owner);

	mutex_lock(&ts->lock);
	err = ts->ops->start();
	if (!err)
		WRITE_ONCE(ts->state, TWO_STAGE_SERVING);
	mutex_unlock(&ts->lock);

	if (err)
		module_put(ts->owner);
	return err;
}

/**
 * two_stage_stop() - the first check, stop and quiesce
 * @ts: the module's protocol
 * @policy: with TWO_STAGE_RETURN users keep it from being stopped
 *
 * Return:
 * * 0			- stopped; two_stage_recheck() has to follow
 * * %-EBUSY		- there are users; nothing was changed
 * * %-EALREADY		- it is READY: nothing is left to be done
 * * %-EINPROGRESS	- it is DELAYED, or somebody else is about to recheck
 * * %-ENODEV		- it was never begun, or has ended
 */
static inline int two_stage_stop(struct two_stage *ts, enum two_stage_policy policy)
{
	int err = 0;

	/* A parameter may be set before init has run. */
	if (READ_ONCE(ts->state) == TWO_STAGE_OUT)
		return -ENODEV;

	mutex_lock(&ts->lock);
	switch (ts->state) {
	case TWO_STAGE_SERVING:
		if (policy == TWO_STAGE_RETURN && two_stage_users(ts)) {
			err = -EBUSY;
			break;
		}
		ts->ops->stop();
		ts->ops->quiesce();
		WRITE_ONCE(ts->state, TWO_STAGE_STOPPED);
		break;
	case TWO_STAGE_READY:
		err = -EALREADY;
		break;
	case TWO_STAGE_OUT:
		err = -ENODEV;
		break;
	default:
		err = -EINPROGRESS;
	}
	mutex_unlock(&ts->lock);
	return err;
}

/**
 * two_stage_release() - let delete_module through without a second check
 * @ts: the module's protocol, stopped
 *
 * For a module that knows by other means that nobody is inside.
 *
 * Return: 0, or %-EINVAL when it is not STOPPED.
 */
static inline int two_stage_release(struct two_stage *ts)
{
	int err = 0;

	if (READ_ONCE(ts->state) == TWO_STAGE_OUT)
		return -EINVAL;

	mutex_lock(&ts->lock);
	if (ts->state == TWO_STAGE_STOPPED)
		__two_stage_ready(ts);
	else
		err = -EINVAL;
	mutex_unlock(&ts->lock);
	return err;
}

/**
 * two_stage_recheck() - the second check, and what follows from it
 * @ts: the module's protocol, stopped
 * @policy: what to do when somebody came in between
 *
 * Return:
 * * 0			- READY: nobody is inside, delete_module will succeed
 * * %-EAGAIN		- SERVING: somebody came in between; back in service
 * * %-EINPROGRESS	- DELAYED: out of service until the last one has left
 * * %-EINVAL		- it is not STOPPED
 * * other		- what start failed with on the way back: DELAYED
 */
static inline int two_stage_recheck(struct two_stage *ts, enum two_stage_policy policy)
{
	int err = -EINPROGRESS;

	if (READ_ONCE(ts->state) == TWO_STAGE_OUT)
		return -EINVAL;

	mutex_lock(&ts->lock);
	if (ts->state != TWO_STAGE_STOPPED) {
		mutex_unlock(&ts->lock);
		return -EINVAL;
	}
	if (policy == TWO_STAGE_RETURN && two_stage_users(ts)) {
		err = ts->ops->start();
		if (!err) {
			WRITE_ONCE(ts->state, TWO_STAGE_SERVING);
			mutex_unlock(&ts->lock);
			return -EAGAIN;
		}
	}
	/*
	 * Delayed before the look at the count: whoever leaves after that look
	 * sees the state, and whoever left before it is seen here.
	 */
	WRITE_ONCE(ts->state, TWO_STAGE_DELAYED);
	smp_mb();	/* pairs with atomic_dec_and_test() in two_stage_leave() */
	if (!two_stage_users(ts)) {
		__two_stage_ready(ts);
		err = 0;
	}
	mutex_unlock(&ts->lock);
	return err;
}

/**
 * two_stage_unload() - the whole first stage
 * @ts: the module's protocol
 * @policy: what to do about users
 *
 * Return: 0 and the module is READY, or see two_stage_stop() and
 * two_stage_recheck().
 */
static inline int two_stage_unload(struct two_stage *ts, enum two_stage_policy policy)
{
	int err = two_stage_stop(ts, policy);

	return err ?: two_stage_recheck(ts, policy);
}

/**
 * two_stage_resume() - change one's mind: back in service
 * @ts: the module's protocol, DELAYED or READY
 *
 * Return: 0; %-EINVAL when it is neither; %-ENODEV when it was never begun or
 * delete_module was faster; or what start failed with.
 */
static inline int two_stage_resume(struct two_stage *ts)
{
	bool held;
	int err = -EINVAL;

	if (READ_ONCE(ts->state) == TWO_STAGE_OUT)
		return -ENODEV;

	mutex_lock(&ts->lock);
	if (ts->state != TWO_STAGE_DELAYED && ts->state != TWO_STAGE_READY)
		goto out;

	/* DELAYED still holds the module; READY has let go of it. */
	held = ts->state == TWO_STAGE_DELAYED;
	err = -ENODEV;
	if (!held && !try_module_get(ts->owner))
		goto out;

	err = ts->ops->start();
	if (!err)
		WRITE_ONCE(ts->state, TWO_STAGE_SERVING);
	else if (!held)
		module_put(ts->owner);
out:
	mutex_unlock(&ts->lock);
	return err;
}

/**
 * two_stage_end() - the beginning of the second stage
 * @ts: the module's protocol
 *
 * In exit, as its first step: when it returns, nobody is inside and nobody can
 * come. After the first stage that is so at once. An unload that was forced
 * comes here without it; exit cannot refuse, so it stops and waits.
 */
static inline void two_stage_end(struct two_stage *ts)
{
	enum two_stage_state was;

	mutex_lock(&ts->lock);
	was = ts->state;
	if (was == TWO_STAGE_SERVING) {
		ts->ops->stop();
		ts->ops->quiesce();
	}
	WRITE_ONCE(ts->state, TWO_STAGE_OUT);
	mutex_unlock(&ts->lock);

	if (was != TWO_STAGE_READY) {
		wait_var_event(&ts->users, !two_stage_users(ts));
		two_stage_drain();
	}
	/* It may have made the module READY, and still be on its way back. */
	cancel_work_sync(&ts->last_left);
}

#endif
