// SPDX-License-Identifier: GPL-2.0-only
/* parley: sockets of a family that nobody has; each hears what was said to it last. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/module.h>
#include <linux/net.h>
#include <linux/socket.h>
#include <net/net_namespace.h>
#include <net/sock.h>

/* Reserved for a protocol that never came (include/linux/socket.h). */
#define PF_PARLEY	PF_ASH

#ifdef NO_OWNER
#define PARLEY_OWNER	NULL
#else
#define PARLEY_OWNER	THIS_MODULE
#endif

struct parley_sock {
	struct sock sk;
	size_t len;
	char said[64];
};

static struct proto parley_proto = {
	.name		= "PARLEY",
	.owner		= PARLEY_OWNER,
	.obj_size	= sizeof(struct parley_sock),
};

static int parley_release(struct socket *sock)
{
	struct sock *sk = sock->sk;

	if (!sk)
		return 0;
	sock_orphan(sk);
	sock->sk = NULL;
	sock_put(sk);
	return 0;
}

static int parley_sendmsg(struct socket *sock, struct msghdr *msg, size_t len)
{
	struct parley_sock *parley = container_of(sock->sk, struct parley_sock, sk);
	size_t part = min(len, sizeof(parley->said));
	int err;

	lock_sock(sock->sk);
	err = memcpy_from_msg(parley->said, msg, part);
	if (!err)
		parley->len = part;
	release_sock(sock->sk);
	return err ? err : part;
}

static int parley_recvmsg(struct socket *sock, struct msghdr *msg, size_t size, int flags)
{
	struct parley_sock *parley = container_of(sock->sk, struct parley_sock, sk);
	size_t part;
	int err;

	lock_sock(sock->sk);
	part = min(size, parley->len);
	err = memcpy_to_msg(msg, parley->said, part);
	release_sock(sock->sk);
	return err ? err : part;
}

static const struct proto_ops parley_ops = {
	.family		= PF_PARLEY,
	.owner		= PARLEY_OWNER,
	.release	= parley_release,
	.bind		= sock_no_bind,
	.connect	= sock_no_connect,
	.socketpair	= sock_no_socketpair,
	.accept		= sock_no_accept,
	.getname	= sock_no_getname,
	.ioctl		= sock_no_ioctl,
	.listen		= sock_no_listen,
	.shutdown	= sock_no_shutdown,
	.sendmsg	= parley_sendmsg,
	.recvmsg	= parley_recvmsg,
	.mmap		= sock_no_mmap,
};

static int parley_create(struct net *net, struct socket *sock, int protocol, int kern)
{
	struct sock *sk;

	if (sock->type != SOCK_DGRAM)
		return -ESOCKTNOSUPPORT;
	if (protocol)
		return -EPROTONOSUPPORT;
	sk = sk_alloc(net, PF_PARLEY, GFP_KERNEL, &parley_proto, kern);
	if (!sk)
		return -ENOMEM;
	sock->ops = &parley_ops;
	sock_init_data(sock, sk);
	return 0;
}

static const struct net_proto_family parley_family = {
	.family	= PF_PARLEY,
	.create	= parley_create,
	.owner	= PARLEY_OWNER,
};

static int __init parley_init(void)
{
	int err = proto_register(&parley_proto, 0);

	if (err)
		return err;
	err = sock_register(&parley_family);
	if (err)
		proto_unregister(&parley_proto);
	return err;
}

static void __exit parley_exit(void)
{
	sock_unregister(PF_PARLEY);
	proto_unregister(&parley_proto);
}

module_init(parley_init);
module_exit(parley_exit);

MODULE_DESCRIPTION("A family of sockets that hear what they have said");
MODULE_LICENSE("GPL");
