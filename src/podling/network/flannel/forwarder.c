/*
 * The user-space forwarder of flannel's udp backend: IP packets between a TUN device and UDP.
 *
 * Arguments: the descriptors of the TUN device and the UDP socket, both non-blocking; the address errors are sent
 * from (the device's); 1 or 0 for whether the kernel can cut and join UDP packets itself (UDP_SEGMENT, UDP_GRO).
 * Standard input is the control socket (SOCK_SEQPACKET).
 *
 * One control message is the whole table: for each subnet its address, its prefix length, the node's address and
 * port. It ends when the control socket's other end is closed, or the device is gone.
 *
 * A packet from the device goes to the node whose subnet its destination is in. Packets in a row for one node, all
 * of one size but the last, are one system call and pass the network stack as one. Nothing waits for more to come:
 * what there is to read is read, sent, and then the program sleeps in poll(2).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

enum { CONTROL = 0 };
enum { MAX_ROUTES = 4096, BUFFER = 65535, MAX_PAYLOAD = 65507, MAX_SEGMENTS = 64, ROUNDS = 16 };

struct route {
    uint32_t subnet, mask; /* host byte order */
    struct sockaddr_in node;
};

struct __attribute__((packed)) wire_route { /* network byte order */
    uint32_t subnet;
    uint8_t prefix;
    uint32_t node;
    uint16_t port;
};

static struct route routes[MAX_ROUTES]; /* ascending; subnets do not overlap */
static int route_count;
static uint32_t own_address; /* network byte order */
static int segments;
static int tun, udp; /* descriptors */

static int ascending(const void *a, const void *b)
{
    const struct route *one = a, *other = b;
    return one->subnet < other->subnet ? -1 : one->subnet > other->subnet;
}

/* The table in place of the old one; 0 when there will be no more. */
static int take_routes(void)
{
    static struct wire_route wire[MAX_ROUTES];
    ssize_t size = recv(CONTROL, wire, sizeof wire, 0);
    if (size < 0)
        return errno == EINTR || errno == EAGAIN;
    if (size == 0)
        return 0;
    route_count = 0;
    for (size_t i = 0; i < size / sizeof *wire; i++) {
        if (wire[i].prefix == 0 || wire[i].prefix > 32)
            continue; /* an empty table is told by one entry with no prefix */
        struct route *route = &routes[route_count++];
        route->mask = ~0u << (32 - wire[i].prefix);
        route->subnet = ntohl(wire[i].subnet) & route->mask;
        memset(&route->node, 0, sizeof route->node);
        route->node.sin_family = AF_INET;
        route->node.sin_addr.s_addr = wire[i].node;
        route->node.sin_port = wire[i].port;
    }
    qsort(routes, route_count, sizeof *routes, ascending);
    return 1;
}

static const struct sockaddr_in *find_node(uint32_t address)
{
    address = ntohl(address);
    int low = 0, high = route_count;
    while (low < high) { /* the last subnet that does not begin after the address */
        int middle = (low + high) / 2;
        if (routes[middle].subnet <= address)
            low = middle + 1;
        else
            high = middle;
    }
    if (low && (address & routes[low - 1].mask) == routes[low - 1].subnet)
        return &routes[low - 1].node;
    return NULL;
}

static uint16_t checksum(const void *data, size_t size)
{
    const uint16_t *word = data;
    uint32_t sum = 0;
    for (; size > 1; size -= 2)
        sum += *word++;
    if (size)
        sum += *(const uint8_t *)word;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return ~sum;
}

/* Tell a pod that there is no node for its packet (RFC 792), with as much of it as belongs into such a message. */
static void send_unreachable(const struct iphdr *about, size_t size)
{
    struct __attribute__((packed)) {
        struct iphdr ip;
        struct icmphdr icmp;
        uint8_t quote[15 * 4 + 8];
    } reply;
    size_t quoted = about->ihl * 4 + 8;
    if (quoted > size)
        quoted = size;
    memset(&reply, 0, sizeof reply);
    memcpy(reply.quote, about, quoted);
    reply.icmp.type = ICMP_DEST_UNREACH;
    reply.icmp.code = ICMP_NET_UNREACH;
    reply.icmp.checksum = checksum(&reply.icmp, sizeof reply.icmp + quoted);
    reply.ip.version = 4;
    reply.ip.ihl = 5;
    reply.ip.ttl = 64;
    reply.ip.protocol = IPPROTO_ICMP;
    reply.ip.saddr = own_address;
    reply.ip.daddr = about->saddr;
    reply.ip.tot_len = htons(sizeof reply.ip + sizeof reply.icmp + quoted);
    reply.ip.check = checksum(&reply.ip, sizeof reply.ip);
    if (write(tun, &reply, ntohs(reply.ip.tot_len)) < 0)
        return; /* a courtesy, no more */
}

/* One hop less to live. The checksum changes by as much (RFC 1624). 0: it has lived long enough. */
static int spend_hop(struct iphdr *ip)
{
    if (ip->ttl <= 1)
        return 0;
    ip->ttl--;
    uint32_t sum = ip->check + htons(0x0100);
    ip->check = sum + (sum >= 0xffff);
    return 1;
}

static void send_one(const struct sockaddr_in *node, struct iovec *data, size_t segment)
{
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(sizeof(uint16_t))];
    } control;
    struct msghdr message = {
        .msg_name = (void *)node, .msg_namelen = sizeof *node, .msg_iov = data, .msg_iovlen = 1};
    if (segment < data->iov_len) {
        message.msg_control = &control;
        message.msg_controllen = sizeof control.space;
        control.head.cmsg_level = IPPROTO_UDP;
        control.head.cmsg_type = UDP_SEGMENT;
        control.head.cmsg_len = CMSG_LEN(sizeof(uint16_t));
        *(uint16_t *)CMSG_DATA(&control.head) = segment;
    }
    while (sendmsg(udp, &message, 0) < 0 && errno == EINTR)
        ;
    /* What cannot be sent is lost, as on any network. A full buffer is not waited for. */
}

/* From the device to the nodes. 0 when the device is gone. */
static int forward_out(void)
{
    static uint8_t buffer[2 * BUFFER];
    size_t used = 0, segment = 0;
    int count = 0;
    const struct sockaddr_in *to = NULL;
    for (int i = 0; i < ROUNDS * MAX_SEGMENTS; i++) {
        ssize_t size = read(tun, buffer + used, BUFFER);
        if (size < 0 && errno == EINTR)
            continue;
        if (size <= 0) {
            if (size < 0 && errno != EAGAIN)
                return 0;
            break;
        }
        struct iphdr *ip = (struct iphdr *)(buffer + used);
        if ((size_t)size < sizeof *ip || ip->version != 4)
            continue;
        const struct sockaddr_in *node = find_node(ip->daddr);
        if (node == NULL) {
            send_unreachable(ip, size);
            continue;
        }
        if (!spend_hop(ip))
            continue;
        int joins = node == to && segments && (size_t)size <= segment && used + size <= MAX_PAYLOAD &&
                    count < MAX_SEGMENTS;
        if (!joins) { /* send what was gathered; the new packet begins the next */
            if (used) {
                struct iovec data = {buffer, used};
                send_one(to, &data, segment);
                memmove(buffer, buffer + used, size);
            }
            to = node, segment = size, used = 0, count = 0;
        }
        used += size;
        count++;
        if ((size_t)size < segment || !segments) { /* shorter: nothing can follow it */
            struct iovec data = {buffer, used};
            send_one(to, &data, segment);
            to = NULL, used = 0, count = 0;
        }
    }
    if (used) {
        struct iovec data = {buffer, used};
        send_one(to, &data, segment);
    }
    return 1;
}

/* From the nodes to the device. 0 when the device is gone. */
static int forward_in(void)
{
    static uint8_t buffer[BUFFER];
    for (int i = 0; i < ROUNDS; i++) {
        union {
            struct cmsghdr head;
            char space[CMSG_SPACE(sizeof(int))];
        } control;
        struct iovec data = {buffer, sizeof buffer};
        struct msghdr message = {
            .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        ssize_t size = recvmsg(udp, &message, 0);
        if (size < 0) {
            if (errno == EAGAIN)
                return 1;
            continue; /* an error an earlier packet met on its way */
        }
        size_t segment = size;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c))
            if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO)
                segment = *(int *)CMSG_DATA(c);
        for (size_t at = 0; segment && at < (size_t)size; at += segment) {
            size_t rest = size - at;
            if (write(tun, buffer + at, rest < segment ? rest : segment) < 0 && errno == EBADFD)
                return 0;
        }
    }
    return 1;
}

int main(int argc, char **argv)
{
    struct in_addr address;
    if (argc != 5 || !inet_aton(argv[3], &address)) {
        fprintf(stderr, "usage: %s TUN_FD UDP_FD ADDRESS 0|1, with standard input a socket\n", argv[0]);
        return 2;
    }
    tun = atoi(argv[1]);
    udp = atoi(argv[2]);
    own_address = address.s_addr;
    segments = atoi(argv[4]);
    struct pollfd files[] = {{CONTROL, POLLIN, 0}, {tun, POLLIN, 0}, {udp, POLLIN, 0}};
    for (;;) {
        if (poll(files, 3, -1) < 0) {
            if (errno == EINTR)
                continue;
            perror("poll");
            return 1;
        }
        if (files[0].revents && !take_routes())
            return 0;
        if (files[1].revents & POLLIN && !forward_out())
            return 3;
        if (files[1].revents & (POLLERR | POLLHUP | POLLNVAL) && !(files[1].revents & POLLIN))
            return 3;
        if (files[2].revents && !forward_in())
            return 3;
    }
}
