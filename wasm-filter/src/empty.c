/* SPDX-License-Identifier: Apache-2.0 */
/* A proxy-wasm filter that does nothing, with the callbacks of the real one for a request: what
 * it costs is the price of any filter.
 */
#include <stdint.h>

#define CALLBACK(name) __attribute__((export_name(#name)))

CALLBACK(proxy_abi_version_0_2_0) void abi_version(void)
{
}

CALLBACK(proxy_on_memory_allocate) void *on_memory_allocate(uint32_t size)
{
	(void)size;
	return 0;
}

CALLBACK(proxy_on_request_headers)
uint32_t on_request_headers(uint32_t stream, uint32_t count, uint32_t end)
{
	(void)stream, (void)count, (void)end;
	return 0; /* continue */
}
