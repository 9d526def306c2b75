// SPDX-License-Identifier: Apache-2.0

package main

// vm is what runs in one VM. The proxy puts all filters with the same code and
// VM configuration into one, also when their plugin configurations differ.
type vm struct {
	host    host
	plugins map[string]*plugin // by pluginKey
	only    *plugin            // the single one, if there are no more
	key     []byte             // buffer of pluginKey
}

// configure starts a plugin, or starts it again with another configuration. It
// never fails, as the proxy would then refuse requests.
func (v *vm) configure() {
	if v.plugins == nil {
		v.plugins = map[string]*plugin{}
	}
	p := newPlugin(v.host)
	v.plugins[string(v.pluginKey())] = p
	v.only = p
	if len(v.plugins) > 1 {
		v.only = nil
	}
}

// request handles the request of the current stream.
func (v *vm) request(stream uint32) {
	p := v.only
	if p == nil {
		if p = v.plugins[string(v.pluginKey())]; p == nil {
			return
		}
	}
	p.request(stream)
}

// end handles the end of the current stream.
func (v *vm) end(stream uint32) {
	if v.only != nil {
		v.only.end(stream)
		return
	}
	for _, p := range v.plugins {
		p.end(stream)
	}
}

// pluginKey tells the plugins of a VM apart: by their names, as the proxy shows
// them to plugins and streams alike. So the VM does not have to be told of each
// stream's beginning and end. The result is valid until the next call.
func (v *vm) pluginKey() []byte {
	v.key = v.key[:0]
	for _, property := range [...]string{"plugin_name", "plugin_root_id"} {
		value, err := v.host.property(property)
		if err == nil {
			v.key = append(v.key, value...)
		}
		v.key = append(v.key, 0)
	}
	return v.key
}
