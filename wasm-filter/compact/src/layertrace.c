/* SPDX-License-Identifier: Apache-2.0 */
/* A proxy-wasm filter that moves the trace context of each request to the start of its header
 * list, right after the host: into the first bytes of the request on the wire.
 *
 * on_configure         find_plugin -> start
 * on_request_headers   current_plugin -> handle_request -> reorder -> handle_root
 * on_log               end_placeholders
 */
#include "placeholders.h"

/* Plugin is the filter with one configuration in one VM, which is one worker thread of the
 * proxy.
 */
struct plugin {
	struct plugin *next;
	struct buffer key;
	u32 key_len;
	bool passive; /* its configuration is invalid */
	struct names names;
	struct placeholders roots;
	/* Each request counts in one of these. */
	struct counter reordered, first, no_context, failed;
};

/* The proxy puts all filters with the same code and VM configuration into one VM, even if their
 * plugin configurations differ. Most VMs have one.
 */
static struct plugin *plugins;

static struct buffer key_buffer;

/* append_property adds an attribute and a NUL to a key. */
static bool append_property(u32 *len, struct bytes path)
{
	struct bytes value = {};
	u32 room = key_buffer.size, had = *len;
	const u8 *old = key_buffer.at;

	if (get_property(path, &value) != STATUS_OK)
		value = (struct bytes){};
	if (!reserve(&key_buffer, (u64)had + value.len + 1))
		return false;
	if (key_buffer.size != room)
		append(key_buffer.at, old, had);
	append((u8 *)key_buffer.at + had, value.at, value.len);
	((u8 *)key_buffer.at)[had + value.len] = 0;
	*len = had + value.len + 1;
	return true;
}

/* current_key identifies the plugin by its names, which the proxy shows to plugins and streams
 * alike. Contexts would do the same, at the price of two callbacks per stream. It is empty if
 * there is no memory.
 */
static struct bytes current_key(void)
{
	u32 len = 0;

	if (!append_property(&len, LITERAL("plugin_name")) ||
	    !append_property(&len, LITERAL("plugin_root_id")))
		return (struct bytes){};
	return (struct bytes){key_buffer.at, len};
}

static struct plugin *find_plugin(struct bytes key)
{
	for (struct plugin *p = plugins; p; p = p->next) {
		if (equal((struct bytes){p->key.at, p->key_len}, key))
			return p;
	}
	return NULL;
}

/* current_plugin returns the plugin of the current stream, or NULL. */
static struct plugin *current_plugin(void)
{
	return plugins && !plugins->next ? plugins : find_plugin(current_key());
}

static struct counter define(struct bytes name)
{
	struct counter c = {};
	u32 status = proxy_define_metric(METRIC_COUNTER, name.at, name.len, &c.id);

	c.defined = status == STATUS_OK;
	if (c.defined)
		return c;
	begin_message();
	SAY("define counter ");
	say(name);
	SAY(": host call returned status ");
	say_number(status);
	SAY("; it stays absent");
	warn();
	return c;
}

/* start reads the configuration of a plugin. If it is invalid, the plugin logs that once and
 * passes all requests unchanged.
 */
static void start(struct plugin *p)
{
	struct bytes text;
	u32 status;

	p->reordered = define(LITERAL("layertrace_requests_reordered"));
	p->first = define(LITERAL("layertrace_requests_already_first"));
	p->no_context = define(LITERAL("layertrace_requests_without_context"));
	p->failed = define(LITERAL("layertrace_host_call_errors"));
	p->roots = (struct placeholders){};

	begin_message();
	SAY("read plugin configuration: ");
	status = get_configuration(&text);
	if (status != STATUS_OK) {
		SAY("host call returned status ");
		say_number(status);
		p->passive = true;
	} else {
		p->passive = !read_config(text, &p->names, &p->roots.tracer);
	}
	if (p->passive) {
		SAY("; headers are not reordered");
		warn();
	} else if (p->roots.tracer) {
		p->roots.set = define(LITERAL("layertrace_requests_with_placeholders"));
		p->roots.left = define(LITERAL("layertrace_placeholders_left"));
	}
}

/* handle_root handles a request without a trace context, which gets placeholders where they are
 * safe.
 */
static void handle_root(struct plugin *p, u32 stream)
{
	if (p->roots.tracer) {
		struct bytes with = begin_placeholders(&p->roots, stream);

		if (with.len && set_request_headers(with) != STATUS_OK) {
			count(&p->failed);
			return;
		}
		if (with.len)
			count(&p->roots.set);
	}
	count(&p->no_context);
}

/* handle_request reorders the headers of the current request. After an error, which is counted,
 * the request passes unchanged.
 */
static void handle_request(struct plugin *p, u32 stream)
{
	struct bytes pairs, reordered;

	if (p->passive)
		return;
	if (get_request_headers(&pairs) != STATUS_OK) {
		count(&p->failed);
		return;
	}
	switch (reorder(&p->names, pairs, &reordered)) {
	case MALFORMED:
		count(&p->failed);
		break;
	case NO_CONTEXT:
		handle_root(p, stream);
		break;
	case ALREADY_FIRST:
		count(&p->first);
		break;
	case REORDERED:
		count(set_request_headers(reordered) == STATUS_OK ? &p->reordered : &p->failed);
		break;
	}
}

/* Envoy requires only the callbacks for memory and, if a plugin has a configuration, configure.
 * It skips a callback that is not exported, which is the cheapest one.
 */
CALLBACK(proxy_abi_version_0_2_0) void abi_version(void)
{
}

/* on_configure starts a plugin, or restarts it with a new configuration. It never fails: the
 * proxy would then reject requests.
 */
CALLBACK(proxy_on_configure) u32 on_configure(u32 context, u32 size)
{
	struct bytes key = current_key();
	struct plugin *p = find_plugin(key);

	(void)context, (void)size;
	if (!all_names.formats)
		choose_formats(&all_names, ALL_FORMATS);
	if (!p) {
		p = allocate(sizeof(*p));
		if (!p || !reserve(&p->key, key.len))
			return 1; /* no memory: its requests find no plugin, and pass */
		append(p->key.at, key.at, key.len);
		p->key_len = key.len;
		p->next = plugins;
		plugins = p;
	}
	start(p);
	return 1;
}

CALLBACK(proxy_on_request_headers) u32 on_request_headers(u32 stream, u32 count, u32 end)
{
	struct plugin *p = current_plugin();

	(void)count, (void)end;
	if (p)
		handle_request(p, stream);
	return 0; /* continue */
}

/* Envoy calls this at the end of a stream in the connection manager, but never for an upstream
 * filter.
 */
CALLBACK(proxy_on_log) void on_log(u32 stream)
{
	for (struct plugin *p = plugins; p; p = p->next) {
		if (p->roots.tracer && p->roots.watched == stream)
			end_placeholders(&p->roots, &p->names);
	}
}
