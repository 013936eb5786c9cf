/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The in-guest executor: runs one program of concurrent actors with raw system
 * calls and reports what happened as JSON lines. See main.c for its modes.
 *
 * Order of the files, lowest first: util, channel, report, words, program,
 * fail, ops_*, modlife, optable, actor, survey, audit, detectors, tell, tasks, park,
 * schedule, run, agent, relay, main.
 */
#ifndef EXECUTOR_H
#define EXECUTOR_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))

/* Limits that harness/ops.py knows too; `executor tables` prints them. */
#define MAX_PROGRAM	131072	/* bytes of program text */
#define MAX_CONTENT	(64 << 20)	/* bytes of a program or payload */
#define MAX_ACTORS	64
#define MAX_NODES	4096	/* ops and control blocks of a whole program */
#define MAX_DEPTH	16	/* nesting of loop and choose */
#define MAX_PARAMS	6	/* fixed parameters of one op */
#define MAX_REST	24	/* words of an op's open end (argv, names) */
#define MAX_SLOTS	16	/* file descriptors an actor holds at once */
#define MAX_MAPS	4
#define MAX_BARRIERS	16
#define MAX_IO		65536	/* bytes of one read, write or map */
#define MAX_MODULES	8	/* modules that one program loads or unloads */
#define MAX_RANKS	(MAX_ACTORS + 8)	/* roles that a schedule ranks */
#define MAX_STEPS	32	/* demotions and starvations of a schedule */
#define MIN_SLICE_US	200
#define MAX_SETTLE_US	60000000
#define MAX_FAILS	512	/* ops of a program whose Nth allocation fails */
#define MAX_FAIL_NTH	1000000000

#define MAX_DATA	4	/* lost-data events kept per actor */
#define MAX_INSIDE	4	/* tasks found inside an unloaded module */
#define MAX_LIVES	8	/* loads remembered of each module, the newest */
#define MAX_PLACES	48	/* sections of a module whose addresses are told */
#define SECTION_LEN	40
#define REPORT_BYTES	(256 * 1024)
#define STACK_TEXT	2048
#define NAME_LEN	64
#define MAX_TASKS	256	/* whose priority is changed at a time */
#define PF_KTHREAD	0x00200000

/* The two actors that every program has besides its own, and that of a plan. */
#define ACTOR_SETUP	MAX_ACTORS
#define ACTOR_TEARDOWN	(MAX_ACTORS + 1)
#define ACTOR_UNLOADER	(MAX_ACTORS + 2)
#define ALL_ACTORS	(MAX_ACTORS + 3)
/* A thread of the kernel's where an actor's number stands. */
#define ACTOR_KERNEL	ALL_ACTORS
#define ROLE_KERNEL	"kernel"

/*
 * What an op answers: 0, an errno, or one of these. They share one space of
 * numbers so that a scenario can expect them by name like any errno.
 */
enum result {
	RES_OK = 0,
	RES_FIRST_PSEUDO = 200,
	RES_SHORT = 200,	/* fewer bytes written than asked for */
	RES_SIGBUS,		/* touching a mapping raised SIGBUS */
	RES_SIGSEGV,		/* touching a mapping raised SIGSEGV */
	RES_EXIT,		/* exec: exit status was not 0 */
	RES_SIGNAL,		/* exec: killed by a signal */
	RES_SKIPPED,		/* the slot is empty: no system call was made */
	RES_MAX,
};

#define RESULT_BITS	256

struct result_set {
	bool any;
	uint64_t bits[RESULT_BITS / 64];
};

/* util.c */
uint64_t now_us(void);
void sleep_us(uint64_t us);
ssize_t read_file(const char *path, char *buf, size_t size);
int write_file(const char *path, const char *data, size_t len);
long futex_wait(_Atomic uint32_t *word, uint32_t seen, uint64_t timeout_us);
void futex_wake_all(_Atomic uint32_t *word);
const char *result_name(int res);
int result_by_name(const char *name);
void result_add(struct result_set *set, int res);
bool result_has(const struct result_set *set, int res);
const char *signal_name(int sig);
uint64_t splitmix64(uint64_t *state);
void pattern_fill(unsigned char *buf, size_t len, uint64_t key, uint64_t offset);
void copy_name(char *to, size_t size, const char *from);

/* channel.c: the way out (report) and in (program). */
void channel_open_stdout(void);
int channel_open_guest(const char **why);
void channel_reopen(void);
void channel_drop(void);
void channel_write(const char *buf, size_t len);
ssize_t channel_read_input(char **content);
void channel_pause_machine(void);
void channel_exit_machine(void);
const char *channel_kind(void);
bool channel_in_guest(void);

/* report.c: JSON lines, bounded in all. */
struct report_state {
	_Atomic uint32_t used;
	_Atomic uint32_t truncated;
};

void report_use(struct report_state *state);
void ev_begin(const char *event);
void ev_str(const char *key, const char *value);
void ev_strn(const char *key, const char *value, size_t len);
void ev_hex(const char *key, const unsigned char *value, size_t len);
void ev_u64(const char *key, uint64_t value);
void ev_int(const char *key, int64_t value);
void ev_addr(const char *key, uint64_t value);
void ev_bool(const char *key, bool value);
void ev_results(const char *key, const struct result_set *set);
void ev_object(const char *key);
void ev_object_end(void);
void ev_end(void);
void ev_end_always(void);

/* program.c: text to a tree of nodes. */
enum node_kind { NODE_OP, NODE_LOOP, NODE_CHOOSE, NODE_BRANCH };

struct op_type;

struct arg {
	int64_t i;		/* numbers, slots, flags; keys as bits */
	bool set;		/* keys: a key was given */
	char *s;		/* strings */
};

struct node {
	enum node_kind kind;
	uint32_t end;		/* index after the last node of this block */
	uint64_t count;		/* loop: turns; branch: weight; choose: sum */
	const struct op_type *type;
	struct arg arg[MAX_PARAMS];
	char **rest;		/* NULL-terminated */
	unsigned int nrest;
	struct result_set expect;
	struct result_set stop;
	uint32_t retries;
	uint32_t fail;		/* its so many-th allocation fails; 0: none */
	char *place;		/* path in the scenario */
	char *text;		/* op and arguments as they were written */
};

struct actor {
	char *name;
	char *place;
	bool thread;
	bool killable;		/* some op of the program signals it */
	int fifo;		/* real-time priority, 0 for SCHED_OTHER */
	uint64_t repeat;	/* 0: no limit of its own */
	uint64_t until;		/* bit set of actors */
	char *until_names;
	uint32_t first, end;	/* nodes of the body */
	uint32_t barriers;	/* bit set of those it takes part in */
};

/* What to do when an actor reaches a point of a module; see park.c. */
struct park {
	char *plan;		/* as a person wrote it */
	char *role;		/* pattern for names of actors */
	char *module, *section;
	uint64_t offset;	/* in the section */
	uint64_t hits;		/* stop the actor that gets there this often */
	bool users;		/* let the others run; else run the unloader's ops */
};

/* At a virtual time, one role gets no processor, or whoever is on top moves to the bottom. */
struct step {
	uint64_t at_us;
	int rank;		/* who is starved; negative: a demotion */
	uint64_t length_us;	/* of a starvation */
};

/* Who runs before whom, and when that changes; see schedule.c. */
struct schedule {
	char *name;
	uint64_t slice_us;	/* whoever uses most of that time is demoted */
	uint64_t end_us;
	unsigned int nranks;
	char *rank[MAX_RANKS];	/* roles, the first runs before all others */
	unsigned int nsteps;
	struct step step[MAX_STEPS];	/* in the order of their times */
};

struct program {
	char *name;
	struct park *park;	/* NULL without a plan */
	struct schedule *schedule;	/* NULL without one */
	uint64_t seed;
	uint64_t bound_us;
	uint64_t settle_us;	/* rest before the end; 0: nobody looks at the memory */
	bool kmemleak;
	unsigned int nactors;
	struct actor actor[ALL_ACTORS];
	struct node *node;	/* MAX_NODES */
	uint32_t nnodes;
	unsigned int nfails;	/* ops in which an allocation fails */
	unsigned int nmodules;
	char module[MAX_MODULES][NAME_LEN];
};

struct parse_error {
	unsigned int line;
	char why[160];
};

struct flag {
	const char *name;
	int64_t value;
};

/* words.c: lines, words and numbers of a program text. */
#define MAX_WORDS	40

struct parser {
	char *text, *next, *end;
	struct program *prog;
	struct parse_error *err;
	char *word[MAX_WORDS];
	unsigned int nwords;
	char *raw;		/* the line before it was decoded */
	bool failed;
};

__attribute__((format(printf, 2, 3)))
bool parse_fail(struct parser *p, const char *fmt, ...);
bool parse_line(struct parser *p);
bool need_words(struct parser *p, unsigned int n);
bool get_u64(struct parser *p, const char *word, uint64_t *value);
bool get_int(struct parser *p, const char *word, int64_t low, int64_t high, int64_t *value);
bool get_mode(struct parser *p, const char *word, int64_t *value);
bool get_string(struct parser *p, const char *word, char **to);
bool get_list(struct parser *p, const char *word,
	      bool (*one)(struct parser *p, const char *name, void *to), void *to);
bool get_results(struct parser *p, const char *word, struct result_set *set);
bool get_flags(struct parser *p, const char *word, const struct flag *table, int64_t *value);
bool get_choice(struct parser *p, const char *word, const struct flag *table, int64_t *value);

struct program *program_parse(const char *text, size_t len, struct parse_error *err);
int program_module(const struct program *prog, const char *name);
void module_name_of_path(char *to, size_t size, const char *path);

/* State that outlives a dying actor: one MAP_SHARED area. */
struct data_event {
	uint32_t node;
	uint64_t offset;
	const char *what;	/* a literal: same address in every fork */
	uint8_t nexpected, ngot;
	unsigned char expected[32], got[32];
};

struct actor_state {
	_Atomic int32_t pid, tid;
	_Atomic uint32_t node;		/* index + 1 of the op it is in */
	_Atomic uint64_t iterations;
	_Atomic uint32_t done;		/* ended by itself */
	_Atomic int32_t died;		/* signal, or -1 when unknown */
	_Atomic uint32_t left;		/* has left its barriers */
	_Atomic uint32_t ndata;
	struct data_event data[MAX_DATA];
};

#define NODE_RESULTS	7

struct node_state {
	struct { uint32_t res; uint32_t count; } seen[NODE_RESULTS];
	uint32_t other;
	uint32_t unexpected;		/* result + 1 of the first one */
	_Atomic uint32_t nunexpected;
};

struct inside {
	_Atomic uint32_t ready;
	uint32_t actor, node, by_actor, by_node;
	uint64_t base, size;
	char module[NAME_LEN];
	char stack[STACK_TEXT];
};

struct place {
	char section[SECTION_LEN];
	uint64_t address;
};

struct life {
	uint32_t number;		/* nth load of its module, 0: none */
	uint32_t nplaces;		/* none unless somebody looks at the memory */
	bool told;
	uint64_t base, size;
	uint64_t loaded_us, unloaded_us;
	struct place place[MAX_PLACES];
};

/* What became of a plan. Texts are complete when the flag before them is set. */
struct park_state {
	_Atomic uint32_t armed;		/* turn up to which breakpoints are set */
	_Atomic uint32_t start, finished;	/* of the unloader */
	_Atomic uint32_t others_us;	/* it wants the others to run for so long */
	_Atomic uint32_t rested;	/* they have, and one of them could not */
	_Atomic uint32_t disturbed;	/* the plan does what the scenario knows nothing of */
	const char *what;		/* trouble; a literal */
	int err;
	uint64_t section, address, init;
	_Atomic uint32_t set;		/* times that the point got an address */

	_Atomic uint32_t hit;
	unsigned int actor;		/* or ACTOR_KERNEL */
	int tid;
	char comm[32];			/* of a kernel thread */
	uint64_t ip, hits, hit_us;
	uint64_t switches;		/* of the victim, when it was stopped */
	char stack[STACK_TEXT];

	_Atomic uint32_t over;
	bool held, gave_way;
	uint64_t gave_way_us, end_us;
	char stack_end[STACK_TEXT], stack_wait[STACK_TEXT];
};

struct spinner_state {
	_Atomic uint32_t spin;
	volatile uint64_t turns;
};

/* What became of a step of a schedule. */
struct step_done {
	uint64_t us;			/* since the schedule began */
	const char *what;		/* a literal: same address in every fork */
	int rank;			/* negative: nobody could run */
};

struct schedule_state {
	_Atomic uint32_t begin, begun, stop, over;
	_Atomic uint32_t nsteps;
	struct step_done step[2 * MAX_STEPS];
	uint64_t began_us;
	uint64_t end_us;		/* when it was over, since it began */
	uint32_t turns;			/* of those who had the processor too long */
	uint32_t tasks;			/* whose priority was set */
};

#define SURVEY_BYTES	(96 * 1024)

/* What surveys have found: for each thing its strings, one after another. */
struct survey_state {
	_Atomic uint32_t busy, len;	/* len: of what is complete */
	_Atomic uint32_t cut;		/* things for which there was no room */
	char text[SURVEY_BYTES];
};

/* What became of an op in which an allocation was to fail; see fail.c. */
struct fail_done {
	_Atomic uint32_t ready;
	unsigned int actor;
	uint32_t node;
	uint32_t left;		/* what fail-nth has come down to; 0: one has failed */
	bool told;		/* the kernel has printed where */
	int err;		/* nothing was made to fail, for this reason */
	int res;
	uint64_t start_us, end_us;
};

struct shared {
	struct report_state report;
	struct survey_state survey;
	struct park_state park;
	struct spinner_state spinner;
	struct schedule_state schedule;
	_Atomic uint32_t ready, go, ended;
	/* turn << 32 | arrived << 16 | members, so that one CAS moves all */
	_Atomic uint64_t barrier[MAX_BARRIERS];
	struct actor_state actor[ALL_ACTORS];
	_Atomic uint32_t loads[MAX_MODULES], unloads[MAX_MODULES];
	struct life life[MAX_MODULES][MAX_LIVES];
	_Atomic uint32_t ninside;
	struct inside inside[MAX_INSIDE];
	_Atomic uint32_t nfails;
	struct fail_done fail[MAX_FAILS];
	struct node_state node[MAX_NODES];
};

extern struct shared *shared;

/* One running actor. */
struct ctx {
	const struct program *prog;
	unsigned int index;		/* actor number */
	uint32_t node;			/* node number of the op under way */
	struct actor_state *st;
	uint64_t rng;
	int fd[MAX_SLOTS];
	uint64_t pos[MAX_SLOTS];
	unsigned char *map[MAX_MAPS];
	size_t map_len[MAX_MAPS];
	uint64_t map_offset[MAX_MAPS];
	unsigned char *buf, *want;	/* MAX_IO each */
	struct fail_task {
		uint32_t nth;		/* of the op under way; 0: none, or over */
		bool armed, told;
		int fd;			/* of its own fail-nth, or -1 */
		int log;		/* the kernel's messages, or -1 */
		uint32_t left;
		int err;
		uint64_t start_us, end_us;
	} fail;
};

/* optable.c: what ops there are and what words they take. */
enum param_kind {
	P_SLOT, P_MAP, P_COUNT, P_NUMBER, P_OFFSET, P_U64, P_KEY, P_MODE,
	P_BARRIER, P_PATH, P_TEXT, P_ACTOR, P_FLAGS, P_CHOICE,
};

struct param {
	enum param_kind kind;
	const char *table_name;
	const struct flag *table;
};

struct op_type {
	const char *name;
	int (*run)(struct ctx *c, const struct node *n);
	struct param param[MAX_PARAMS];
	unsigned int nparams;
	bool rest;
	bool process_only;
};

/* Of sockets: what open_socket takes, and what socket_call does. */
extern const struct flag type_choice[];

enum socket_call {
	CALL_BIND, CALL_CONNECT, CALL_LISTEN, CALL_ACCEPT, CALL_SEND, CALL_SENDTO,
	CALL_RECVFROM, CALL_GETSOCKOPT, CALL_SETSOCKOPT, CALL_GETSOCKNAME, CALL_GETPEERNAME,
	CALL_SHUTDOWN,
};

const struct op_type *op_by_name(const char *name);
const struct op_type *op_by_index(unsigned int i);
void tables_print(void);

/* fail.c: make an allocation fail */
void fail_prepare(void);
void fail_finish(void);
void fail_open(struct ctx *c);
void fail_close(struct ctx *c);
void fail_arm(struct ctx *c);
void fail_disarm(struct ctx *c);
void fail_note(struct ctx *c, uint32_t node, int res);

/* ops_file.c, ops_fs.c, ops_socket.c, ops_task.c, ops_module.c */
int op_open(struct ctx *c, const struct node *n);
int op_close(struct ctx *c, const struct node *n);
int op_read(struct ctx *c, const struct node *n);
int op_write(struct ctx *c, const struct node *n);
int op_pread(struct ctx *c, const struct node *n);
int op_pread_hole(struct ctx *c, const struct node *n);
int op_pwrite(struct ctx *c, const struct node *n);
int op_lseek(struct ctx *c, const struct node *n);
int op_fsync(struct ctx *c, const struct node *n);
int op_ftruncate(struct ctx *c, const struct node *n);
int op_ioctl(struct ctx *c, const struct node *n);
int op_mmap(struct ctx *c, const struct node *n);
int op_munmap(struct ctx *c, const struct node *n);
int op_touch(struct ctx *c, const struct node *n);
int op_poll(struct ctx *c, const struct node *n);
int op_stat(struct ctx *c, const struct node *n);
int op_readdir(struct ctx *c, const struct node *n);
int op_mkdir(struct ctx *c, const struct node *n);
int op_rmdir(struct ctx *c, const struct node *n);
int op_unlink(struct ctx *c, const struct node *n);
int op_rename(struct ctx *c, const struct node *n);
int op_chdir(struct ctx *c, const struct node *n);
int op_mount(struct ctx *c, const struct node *n);
int op_umount(struct ctx *c, const struct node *n);
int op_umount_all(struct ctx *c, const struct node *n);
int op_sync(struct ctx *c, const struct node *n);
int op_write_file(struct ctx *c, const struct node *n);
int op_read_file(struct ctx *c, const struct node *n);
int op_exec(struct ctx *c, const struct node *n);
int op_kill(struct ctx *c, const struct node *n);
int op_sleep(struct ctx *c, const struct node *n);
int op_delay(struct ctx *c, const struct node *n);
int op_yield(struct ctx *c, const struct node *n);
int op_pin(struct ctx *c, const struct node *n);
int op_barrier(struct ctx *c, const struct node *n);
int op_await_line(struct ctx *c, const struct node *n);
int op_socket(struct ctx *c, const struct node *n);
int op_send(struct ctx *c, const struct node *n);
int op_recv(struct ctx *c, const struct node *n);
int op_open_socket(struct ctx *c, const struct node *n);
int op_socket_call(struct ctx *c, const struct node *n);
int op_finit_module(struct ctx *c, const struct node *n);
int op_delete_module(struct ctx *c, const struct node *n);

/* ops_net.c */
int op_ifup(struct ctx *c, const struct node *n);
int op_ifdown(struct ctx *c, const struct node *n);

void data_lost(struct ctx *c, const char *what, uint64_t offset,
	       const unsigned char *expected, size_t nexpected,
	       const unsigned char *got, size_t ngot);
void check_pattern(struct ctx *c, const unsigned char *got, size_t len,
		   uint64_t key, uint64_t offset);
void task_signals_init(void);
void barrier_leave(const struct program *prog, unsigned int actor);

/* modlife.c: where modules lay, and who is still inside one. */
bool module_range(const char *name, uint64_t *base, uint64_t *size);
void life_loaded(const struct program *prog, int module, uint64_t us);
uint32_t life_open(int module);
void life_unloaded(const struct program *prog, uint32_t slot, int module, uint64_t us);
size_t stack_text(int pid, int tid, char *buf, size_t size);
uint64_t task_switches(int pid, int tid);
bool stack_in_range(const char *text, uint64_t base, uint64_t size);
void note_before(const struct ctx *c, const char *module);
void find_inside(const struct ctx *c, const char *module, uint64_t base, uint64_t size,
		 uint64_t begun_us);

/* actor.c: start actors, run their bodies. */
#define MARK_MAGIC	0x6b6d6f64706b7273	/* harness/exectrace.py */
void actor_mark(unsigned long index, unsigned long magic, unsigned long node);
void actor_run(const struct program *prog, unsigned int index);
bool actors_ended(uint64_t actors);
int actor_spawn_process(const struct program *prog, unsigned int index);
int actor_spawn_threads(const struct program *prog);
void actor_ended(const struct program *prog, unsigned int index, int died);

/* survey.c: what has come since the baseline, while a program runs */
int op_survey(struct ctx *c, const struct node *n);
int op_survey_sockets(struct ctx *c, const struct node *n);
void survey_note(const char *section, const char *line, unsigned int mode, unsigned long rdev);
void survey_cut(unsigned int more);
void survey_path(const char *section, const char *path);
void survey_tree(const char *section, const char *path);

/* audit.c */
void audit_survey(void);
int audit_load(const char *path);
void audit_baseline(void);
void audit_compare(void);

/* detectors.c */
void kmemleak_baseline(void);
void kmemleak_report(void);
void detectors_baseline(void);
void detectors_report(void);

/* tell.c: what the report says about actors */
void tell_news(const struct program *prog);
void tell_died(const struct program *prog, unsigned int actor, uint32_t node);
void tell_hang(const char *actor, const struct program *prog, uint32_t node, int pid, int tid);
void tell_sums(const struct program *prog);
void tell_modules(const struct program *prog);
void tell_plan_end(const struct program *prog);
void tell_schedule_end(const struct program *prog);

/* tasks.c: who may run before whom */
struct task {
	int tid, parent;
	char state;
	unsigned int flags;
	char comm[32];
};

bool read_task(int tid, struct task *task);
void each_task(void (*each)(const struct task *task));
bool set_policy(int tid, int policy, int priority);
bool lift(int tid, int policy, int priority);
unsigned int tasks_lifted(void);
void tasks_restore(unsigned int kept);
void spinner_start(int priority);
void spin(int priority);
void spin_end(void);

/* park.c: stop a task at an instruction */
void park_prepare(void);
int park_start(const struct program *program);
void park_arm(uint32_t turn);
void park_end(void);
int park_victim(void);
void park_let_others_run(uint64_t us);

/* schedule.c: seeded priorities */
bool schedule_knows_role(const char *role);
int schedule_start(const struct program *program);
void schedule_begin(void);
void schedule_end(void);

/* run.c */
void tell_trouble(const char *what, int err);
void shared_alloc(void);
bool run_program(const struct program *prog);

/* agent.c */
int agent_main(const char *audit_file);

/* relay.c */
int relay_main(int port, char **argv);

#endif
