/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Bytes from the server: which request they answer, and where the response ends.
 *
 * on_server_data  -> find_response -> read_status_line, answers_request, dequeue;
 *                    begin_response; follow (framing.h)
 */
#ifndef LAYERTRACE_RESPONSE_H
#define LAYERTRACE_RESPONSE_H

#include "request.h"

static __always_inline bool is_interim(__u16 status)
{
	return status >= 100 && status < 200 && status != 101;
}

/* Status code of "HTTP/1.x NNN", or 0. */
static __always_inline __u16 read_status(const __u8 *line)
{
	if (line[8] != ' ')
		return 0;
	for (int i = 9; i < STATUS_LINE; i++)
		if (line[i] < '0' || line[i] > '9')
			return 0;
	return (line[9] - '0') * 100 + (line[10] - '0') * 10 + line[11] - '0';
}

enum status_result {
	STATUS_NONE, /* not a response head */
	STATUS_CUT,  /* continues in the next segment */
	STATUS_READ,
};

/* Reads the status line at the start of the segment, or what is left of one. */
VERIFIED_ALONE int read_status_line(struct __sk_buff *skb, struct scratch *s, struct connection *c)
{
	const __u64 magic = WORD('H', 'T', 'T', 'P', '/', '1', '.', 0);
	__u64 head, mask = ~0ULL >> 8;
	const struct segment *seg;
	__u8 bytes[16] = {};
	__u32 have, n;

	if (!s || !c)
		return STATUS_NONE;
	seg = &s->segment;
	have = c->status_len;
	if (have >= STATUS_LINE)
		have = 0;
	n = STATUS_LINE - have;
	if (n > seg->payload_len)
		n = seg->payload_len;
	BOUND_LENGTH(n, 16);
	if (bpf_skb_load_bytes(skb, seg->payload_off, bytes, n))
		return STATUS_NONE;
	if (!have) {
		__builtin_memcpy(c->status_line, bytes, STATUS_LINE);
	} else {
		for (__u32 i = 0; i < STATUS_LINE; i++)
			if (i >= have)
				c->status_line[i] = bytes[(i - have) & 15];
	}
	have += n;
	__builtin_memcpy(&head, c->status_line, sizeof(head));
	if (have < 7)
		mask >>= 8 * (7 - have);
	if ((head ^ magic) & mask)
		return STATUS_NONE;
	c->status_len = have;
	return have < STATUS_LINE ? STATUS_CUT : STATUS_READ;
}

/* Whether the current request's response may begin with the segment. False if the server
 * had not seen that request, or answers one that did not pass this point.
 */
static __always_inline bool answers_request(const struct segment *seg, struct connection *c)
{
	if (!before(c->request_start, seg->ack)) {
		c->strange = 1;
		return false;
	}
	/* A FIN takes one sequence number. */
	if (!before(c->client.next + 1, seg->ack))
		return true;
	c->x.flags |= FLAG_PACKETS_MISSING;
	if (pending(c) || !is_whole(&c->request, &c->client)) {
		resync_at(&c->client, seg->ack);
		c->unsure |= give_up_missing(&c->request, &c->client);
		return true;
	}
	if (c->recorded)
		emit(c, c->claim, 0);
	c->phase = PHASE_IDLE;
	return false;
}

/* A response to the current request begins in the segment, or continues after a part of
 * its status line. Without one the response has no head.
 */
VERIFIED_ALONE int begin_response(const struct scratch *s, struct connection *c,
				  enum status_result result, __u64 now)
{
	const struct segment *seg;
	struct exchange_record *x;
	struct message *m;
	__u16 status = 0;
	__u32 cut;

	if (!s || !c)
		return 0;
	seg = &s->segment;
	x = &c->x;
	m = &c->response;
	cut = m->kind == MESSAGE_STATUS ? seg->seq - m->start : 0;
	if (result == STATUS_READ)
		status = read_status(c->status_line);
	if (!status)
		result = STATUS_NONE;
	c->status_len = 0;
	c->strange = 0;
	start_message(m, seg->seq, BODY_TO_CLOSE);
	m->start -= cut;
	if (cut)
		m->line = LINE_MIDDLE;
	if (is_interim(status)) {
		m->kind = MESSAGE_INTERIM;
		x->flags |= FLAG_INTERIM;
		return 0;
	}
	if (result == STATUS_NONE)
		m->kind = MESSAGE_UNKNOWN;
	c->phase = PHASE_RESPONSE;
	x->status = status;
	x->response_first = cut ? c->status_ns : now;
	x->response_bytes += cut;
	x->response_packets += cut != 0;
	if (x->direction == DIRECTION_INGRESS)
		start_egress(x, m->start);
	if (status == 101 || (c->bodiless == BODILESS_CONNECT && status >= 200 && status < 300)) {
		x->flags |= FLAG_UPGRADED;
		m->body = BODY_NONE;
		c->request.kind = MESSAGE_TUNNEL;
	} else if (c->bodiless == BODILESS_HEAD || status == 204 || status == 304) {
		m->body = BODY_NONE;
	}
	return 0;
}

/* Whose the bytes at the start of the segment are, which passes for the first time.
 * Returns whether they belong to the current response or to an interim one before it.
 */
static __always_inline bool find_response(struct __sk_buff *skb, const struct segment *seg,
					  struct scratch *s, struct connection *c, __u64 now)
{
	bool in_order = !c->server.valid || seg->seq == c->server.next;
	struct message *m = &c->response;
	enum status_result result;

	if (c->phase == PHASE_RESPONSE) {
		bool over =
			m->kind == MESSAGE_ENDS ? !is_inside(m, seg->seq) : m->kind >= MESSAGE_TAIL;

		/* The head came after a later segment. */
		if (m->kind == MESSAGE_NONE && seg->kind.response && !in_order) {
			__u64 first = c->x.response_first;

			c->status_len = 0;
			if (read_status_line(skb, s, c) != STATUS_READ)
				return true;
			m->kind = MESSAGE_NONE;
			begin_response(s, c, STATUS_READ, first);
			return true;
		}
		if (!over || !(pending(c) || c->overflow))
			return m->kind != MESSAGE_ENDS || !over;
		/* Fewer than 7 bytes may be the start of a head. */
		if (!seg->kind.response && (m->kind != MESSAGE_ENDS || seg->payload_len >= 7)) {
			if (!in_order)
				lose_order(c); /* the head of the next response is missing */
			return m->kind != MESSAGE_ENDS;
		}
		dequeue(s, c);
	}
	if (m->kind == MESSAGE_INTERIM)
		return true;
	if (!answers_request(seg, c))
		return false;
	if (!in_order && (pending(c) || c->overflow))
		lose_order(c); /* the bytes before it may be the response */
	if (!in_order && m->kind == MESSAGE_STATUS)
		m->kind = MESSAGE_NONE; /* its rest is not read */
	if (!in_order && !seg->kind.response) {
		/* Bytes before it are missing, perhaps the head. */
		c->phase = PHASE_RESPONSE;
		c->x.response_first = now;
		m->start = seg->seq;
		if (c->x.direction == DIRECTION_INGRESS)
			start_egress(&c->x, seg->seq);
		return true;
	}
	if (m->kind != MESSAGE_STATUS)
		c->status_len = 0;
	result = read_status_line(skb, s, c);
	if (result == STATUS_CUT) {
		if (m->kind != MESSAGE_STATUS) {
			m->kind = MESSAGE_STATUS;
			m->start = seg->seq;
			c->status_ns = now;
		}
		m->at = seg->seq + seg->payload_len;
		return true;
	}
	begin_response(s, c, result, now);
	return true;
}

/* Payload from the server: like on_client_data(). */
static __always_inline __u32 on_server_data(struct __sk_buff *skb, struct segment *seg,
					    struct scratch *s, struct connection *c, __u64 now)
{
	struct message *m = &c->response;
	struct exchange_record *x = &c->x;
	enum arrival arrival;
	__u32 fresh, part;
	bool own = false;

	part = uniform_part(&c->server, seg->seq, seg->payload_len);
	if (is_seen(&c->server, seg->seq)) {
		seg->payload_len = part;
		on_seen_bytes(s, c, false, now);
		return part;
	}
	if (misses_acked(&c->client, seg->ack)) {
		c->unsure |= give_up_missing(&c->request, &c->client);
		if (is_open(c) && before(c->request_start, c->client.gap_end))
			x->flags |= FLAG_PACKETS_MISSING;
	}
	if (seg->kind.outcome != NOT_A_REQUEST)
		count_rare(COUNTER_REQUEST_IN_RESPONSE);
	if (is_open(c))
		own = find_response(skb, seg, s, c, now);
	if (own && (m->kind == MESSAGE_INTERIM || c->phase == PHASE_RESPONSE))
		part = follow(skb, s, m, seg->payload_off, part);
	seg->payload_len = part;
	arrival = arrive(&c->server, seg->seq, part, &fresh);
	if (arrival != ARRIVAL_IN_ORDER)
		count_rare(COUNTER_OUT_OF_ORDER);
	if (!own) {
		if (is_open(c) && c->recorded && (c->claim & 1))
			count_rare(COUNTER_LATE);
		return part;
	}
	if (lose_framing(skb, seg, m, &c->server) && c->phase == PHASE_REQUEST)
		begin_response(s, c, STATUS_NONE, now);
	if (c->phase != PHASE_RESPONSE)
		return part; /* interim, or the start of a status line */
	/* It may contain the responses to requests that wait. */
	if (m->kind >= MESSAGE_TAIL && m->kind != MESSAGE_ENDS)
		c->unsure = 1;
	if (!c->recorded) {
		if (!pending(c) && !c->overflow)
			c->phase = PHASE_IDLE;
		return part;
	}
	if (c->claim & 1) {
		count_rare(COUNTER_LATE);
		return part;
	}
	if (arrival != ARRIVAL_IN_ORDER)
		x->flags |= FLAG_OUT_OF_ORDER;
	if (x->direction == DIRECTION_INGRESS)
		extend_egress(x, seg->seq + part);
	x->response_last = now;
	x->response_bytes += fresh;
	x->response_packets++;
	correct_bytes(x, &x->response_bytes, m, &c->server);
	return part;
}

#endif
