// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/layertrace/layertrace/bpf"
)

// optionWriter writes TCP options for the sockets in some cgroups.
type optionWriter struct {
	objs  bpf.SockopsObjects
	links attachments
}

var optionLayouts = map[OptionLayout]bpf.SockopsOptionLayout{
	OptionCompact: bpf.SockopsOptionLayoutOPTION_COMPACT,
	OptionPaper:   bpf.SockopsOptionLayoutOPTION_PAPER,
}

func openOptionWriter(o *Options) (*optionWriter, error) {
	spec, err := bpf.LoadSockops()
	if err != nil {
		return nil, fmt.Errorf("read TCP option programs: %w", err)
	}
	err = setAll(spec, map[string]any{
		bpf.SockopsVarOptionLayout:      optionLayouts[o.TCPOption],
		bpf.SockopsVarFilterOptionPorts: len(o.TCPOptionPorts) > 0,
		bpf.SockopsVarOptionPorts:       portBits(o.TCPOptionPorts),
	})
	if err != nil {
		return nil, err
	}
	w := &optionWriter{}
	if err := spec.LoadAndAssign(&w.objs, nil); err != nil {
		return nil, loadError("TCP option", err)
	}
	for _, path := range o.TCPOptionCgroups {
		l, err := link.AttachCgroup(link.CgroupOptions{
			Path:    path,
			Attach:  ebpf.AttachCGroupSockOps,
			Program: w.objs.WriteOptions,
		})
		if err != nil {
			err = fmt.Errorf("write TCP options for cgroup %s (is it a directory of the cgroup2 mount?): %w", path, err)
			return nil, errors.Join(err, w.Close())
		}
		w.links = append(w.links, l)
	}
	return w, nil
}

// Close stops writing options; connections continue without them.
func (w *optionWriter) Close() error {
	return errors.Join(w.links.Close(), w.objs.Close())
}
