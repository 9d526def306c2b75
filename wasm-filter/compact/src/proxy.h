/* SPDX-License-Identifier: Apache-2.0 */
/* The boundary to the proxy (proxy-wasm ABI 0.2.1): host calls, and the memory for their results.
 * The module has no libc and no allocator; what it allocates it keeps.
 */
#ifndef LAYERTRACE_PROXY_H
#define LAYERTRACE_PROXY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HOST_CALL(name) __attribute__((import_module("env"), import_name(#name)))
#define CALLBACK(name) __attribute__((export_name(#name)))

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;

struct bytes {
	const u8 *at;
	u32 len;
};

#define LITERAL(s) ((struct bytes){(const u8 *)(s), sizeof(s) - 1})

/* proxy_status_t of the ABI. */
enum status {
	STATUS_OK = 0,
	STATUS_NOT_FOUND = 1,
	STATUS_TOO_LONG = -1, /* not the proxy's: the result is not in the memory for results */
};

enum {
	LOG_WARN = 3,
	MAP_REQUEST_HEADERS = 0,
	BUFFER_PLUGIN_CONFIGURATION = 7,
	METRIC_COUNTER = 0,
};

HOST_CALL(proxy_log) u32 proxy_log(u32 level, const u8 *message, u32 size);
HOST_CALL(proxy_get_buffer_bytes)
u32 proxy_get_buffer_bytes(u32 buffer, u32 start, u32 length, u8 **data, u32 *size);
HOST_CALL(proxy_get_property)
u32 proxy_get_property(const u8 *path, u32 path_size, u8 **data, u32 *size);
HOST_CALL(proxy_get_header_map_pairs)
u32 proxy_get_header_map_pairs(u32 map, u8 **data, u32 *size);
HOST_CALL(proxy_set_header_map_pairs)
u32 proxy_set_header_map_pairs(u32 map, const u8 *data, u32 size);
HOST_CALL(proxy_define_metric)
u32 proxy_define_metric(u32 kind, const u8 *name, u32 size, u32 *id);
HOST_CALL(proxy_increment_metric) u32 proxy_increment_metric(u32 id, u64 by);

#define PAGE_SIZE 65536

extern u8 __heap_base; /* the linker's: where static data and the stack end */

/* allocate returns zeroed memory that is never freed, or NULL. Callers that need more each time
 * double what they ask for, so what is given up is at most what is in use.
 */
static void *allocate(u32 size)
{
	static u8 *next = &__heap_base;
	u64 begin = ((u64)(uintptr_t)next + 15) & ~15ULL;
	u64 end = begin + size;
	u64 now = (u64)__builtin_wasm_memory_size(0) * PAGE_SIZE;

	if (end > UINT32_MAX)
		return NULL;
	if (end > now) {
		u32 pages = (u32)((end - now + PAGE_SIZE - 1) / PAGE_SIZE);

		if (__builtin_wasm_memory_grow(0, pages) == (size_t)-1)
			return NULL;
	}
	next = (u8 *)(uintptr_t)end;
	return (void *)(uintptr_t)begin;
}

/* buffer is memory that grows. */
struct buffer {
	void *at;
	u32 size;
};

/* reserve makes room for size bytes, without what was there. */
static bool reserve(struct buffer *b, u64 size)
{
	void *at;

	if (size <= b->size)
		return true;
	if (size > UINT32_MAX / 2)
		return false;
	at = allocate((u32)size * 2);
	if (!at)
		return false;
	b->at = at;
	b->size = (u32)size * 2;
	return true;
}

/* Results receives the bytes that a host call returns, one result at a time. Its first size fits
 * the headers of most requests.
 */
static u8 first_results[16 << 10];
static struct buffer results = {first_results, sizeof(first_results)};

/* What a host call writes: where the result is, always in results, and its size. */
static u8 *returned_data;
static u32 returned_size;

/* The proxy calls this in the middle of a call that returns bytes. */
CALLBACK(proxy_on_memory_allocate) void *on_memory_allocate(u32 size)
{
	return reserve(&results, size) ? results.at : NULL;
}

/* received returns the bytes of a call, valid until the next one. */
static u32 received(u32 status, struct bytes *result)
{
	u32 size = returned_size;

	returned_size = 0; /* the proxy does not write a size of 0 */
	if (status != STATUS_OK)
		return status;
	if (size > results.size)
		return (u32)STATUS_TOO_LONG;
	*result = (struct bytes){results.at, size};
	return STATUS_OK;
}

/* get_configuration returns the plugin configuration, empty if there is none. */
static u32 get_configuration(struct bytes *result)
{
	u32 status = proxy_get_buffer_bytes(BUFFER_PLUGIN_CONFIGURATION, 0, 1 << 30, &returned_data,
					    &returned_size);

	if (status == STATUS_NOT_FOUND) {
		*result = (struct bytes){};
		return STATUS_OK;
	}
	return received(status, result);
}

/* get_property returns an attribute of the plugin or the stream. */
static u32 get_property(struct bytes path, struct bytes *result)
{
	return received(proxy_get_property(path.at, path.len, &returned_data, &returned_size),
			result);
}

/* get_request_headers returns all request headers in their order, in the form of list.h. */
static u32 get_request_headers(struct bytes *result)
{
	return received(
		proxy_get_header_map_pairs(MAP_REQUEST_HEADERS, &returned_data, &returned_size),
		result);
}

/* set_request_headers replaces all request headers. */
static u32 set_request_headers(struct bytes pairs)
{
	return proxy_set_header_map_pairs(MAP_REQUEST_HEADERS, pairs.at, pairs.len);
}

#endif
