// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/layertrace/layertrace/agent/internal/probe"
	"github.com/layertrace/layertrace/agent/internal/unseen"
	"github.com/layertrace/layertrace/internal/screen"
)

// agentTimeout is how long the agent of this machine may take to send its metrics.
const agentTimeout = 2 * time.Second

// metricsLimit bounds what is read of an agent's metrics.
const metricsLimit = 16 << 20

// lookAround adds to the report what an agent here does not read: by the metrics of
// the agent that serves them at address, if there is one, and by the devices and BPF
// programs of this network namespace.
func (r *Report) lookAround(ctx context.Context, address string) {
	r.Unseen = []unseen.Sight{}
	if address != "" {
		counted, err := askAgent(ctx, address)
		switch {
		case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENETUNREACH): // no agent
		case err != nil:
			r.UnseenProblem = err.Error()
		default:
			r.Unseen = counted
		}
	}
	found, err := examineInterfaces()
	if err != nil {
		r.UnseenProblem = err.Error()
	}
	for _, s := range found {
		if unseen.IsNew(r.Unseen, s) {
			r.Unseen = append(r.Unseen, s)
		}
	}
	if r.Left, err = probe.LeftBehind(); err != nil {
		r.UnseenProblem = err.Error()
	}
}

// askAgent reads the metrics of the agent at an address.
func askAgent(ctx context.Context, address string) ([]unseen.Sight, error) {
	ctx, cancel := context.WithTimeout(ctx, agentTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		return nil, fmt.Errorf("ask the agent at %s: %w; correct --metrics-address", address, err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // and no proxy
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask the agent at %s: %w; correct --metrics-address", address, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask the agent at %s: %s; correct --metrics-address", address, response.Status)
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, metricsLimit))
	if err != nil {
		return nil, fmt.Errorf("read the metrics of the agent at %s: %w", address, err)
	}
	return unseen.Read(bytes.NewReader(text))
}

// examineInterfaces finds devices of encapsulations, whose packets are not read at the
// interface below, and programs of others that get packets before an agent does.
func examineInterfaces() (all []unseen.Sight, err error) {
	devices, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list network interfaces: %w", err)
	}
	for _, d := range devices {
		programs, e := probe.AheadOfAny(d.Attrs().Index)
		if e != nil {
			err = fmt.Errorf("find the programs at %s: %w", d.Attrs().Name, e)
		}
		for _, p := range programs {
			all = append(all, unseen.Ahead(d.Attrs().Name, p.Hook, p.Program))
		}
	}
	for _, d := range devices {
		if d.Attrs().Flags&1 == 0 { // net.FlagUp: gre0, sit0 and the like are always there
			continue
		}
		for kind, types := range unseen.DeviceKinds {
			if slices.Contains(types, d.Type()) {
				all = append(all, unseen.Device(kind, d.Attrs().Name))
			}
		}
	}
	return all, err
}

// writeUnseen lists what is not read here.
func (r Report) writeUnseen(b *bytes.Buffer, width int) {
	if len(r.Unseen) > 0 {
		fmt.Fprintln(b, "\nNot read here:")
		for _, line := range unseen.Lines(r.Unseen) {
			b.WriteString(screen.Wrap("- ", line, width))
		}
	}
	if r.UnseenProblem != "" {
		b.WriteString("\n" + screen.Wrap("", "What is not read here is not fully known: "+r.UnseenProblem, width))
	}
	if len(r.Left) > 0 {
		b.WriteString("\n" + screen.Wrap("", fmt.Sprintf("An agent was killed here. Its filters still run at %s, and nothing reads what they record: the next agent removes them.", strings.Join(r.Left, ", ")), width))
	}
}
