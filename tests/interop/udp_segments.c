/* Many datagrams in one call, for the kernel or the network card to cut (UDP_SEGMENT), and what comes of them.
 *
 * udp_segments send ADDRESS PORT SEGMENT TOTAL
 * udp_segments receive ADDRESS PORT TOTAL alone|together
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

/* Not in all headers. */
#define OWN_UDP_SEGMENT 103
#define OWN_UDP_GRO 104

static unsigned char data[65536];

static unsigned char byte_at(size_t at) { return (unsigned char)(at * 7 + at / 251); }

static int fail(const char *what) {
	perror(what);
	return 1;
}

static int address(const char *text, const char *port, struct sockaddr_storage *found, socklen_t *length) {
	struct sockaddr_in *four = (struct sockaddr_in *)found;
	struct sockaddr_in6 *six = (struct sockaddr_in6 *)found;
	memset(found, 0, sizeof *found);
	if (inet_pton(AF_INET, text, &four->sin_addr) == 1) {
		four->sin_family = AF_INET;
		four->sin_port = htons((unsigned short)atoi(port));
		*length = sizeof *four;
	} else if (inet_pton(AF_INET6, text, &six->sin6_addr) == 1) {
		six->sin6_family = AF_INET6;
		six->sin6_port = htons((unsigned short)atoi(port));
		*length = sizeof *six;
	} else {
		return 0;
	}
	return 1;
}

static int send_all(int fd, const struct sockaddr *to, socklen_t length, int segment, size_t total) {
	for (size_t at = 0; at < total; at++)
		data[at] = byte_at(at);
	if (setsockopt(fd, IPPROTO_UDP, OWN_UDP_SEGMENT, &segment, sizeof segment) != 0)
		return fail("UDP_SEGMENT");
	ssize_t sent = sendto(fd, data, total, 0, to, length);
	if (sent != (ssize_t)total)
		return fail("sendto");
	return 0;
}

/* A line for each message: its length, and how long the datagrams are that it was put together from, or 0. */
static int receive_all(int fd, size_t total, int together) {
	struct timeval patience = {.tv_sec = 30};
	int room = 8 << 20; /* for many small ones, should this program be slow */
	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) != 0)
		return fail("SO_RCVTIMEO");
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room) != 0)
		return fail("SO_RCVBUFFORCE");
	if (together && setsockopt(fd, IPPROTO_UDP, OWN_UDP_GRO, &together, sizeof together) != 0)
		return fail("UDP_GRO");
	puts("ready");
	fflush(stdout);
	for (size_t at = 0; at < total;) {
		char control[64];
		struct iovec part = {data, sizeof data};
		struct msghdr message = {
			.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
		ssize_t length = recvmsg(fd, &message, 0);
		if (length <= 0)
			return fail("recvmsg");
		int segment = 0;
		for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c != NULL; c = CMSG_NXTHDR(&message, c))
			if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == OWN_UDP_GRO)
				memcpy(&segment, CMSG_DATA(c), sizeof segment);
		printf("%zd %d\n", length, segment);
		for (ssize_t place = 0; place < length; place++, at++)
			if (data[place] != byte_at(at)) {
				printf("byte %zu is wrong\n", at);
				return 1;
			}
	}
	puts("all");
	return 0;
}

int main(int count, char **argument) {
	struct sockaddr_storage where;
	socklen_t length;
	if (count != 6 || !address(argument[2], argument[3], &where, &length))
		return 2;
	int fd = socket(where.ss_family, SOCK_DGRAM, 0);
	if (fd < 0)
		return fail("socket");
	if (strcmp(argument[1], "send") == 0)
		return send_all(fd, (struct sockaddr *)&where, length, atoi(argument[4]), (size_t)atoi(argument[5]));
	if (bind(fd, (struct sockaddr *)&where, length) != 0)
		return fail("bind");
	return receive_all(fd, (size_t)atoi(argument[4]), strcmp(argument[5], "together") == 0);
}
