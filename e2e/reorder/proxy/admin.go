// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// readListeners asks Envoy for the addresses that its listeners got.
func (p *Proxy) readListeners(ctx context.Context) (map[string]netip.AddrPort, error) {
	body, err := get(ctx, p.admin+"/listeners?format=json")
	if err != nil {
		return nil, fmt.Errorf("ask Envoy for its listeners: %w", err)
	}
	var list struct {
		Statuses []struct {
			Name    string `json:"name"`
			Address struct {
				Socket struct {
					Address netip.Addr `json:"address"`
					Port    uint16     `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("read Envoy's listeners: %w", err)
	}
	listeners := map[string]netip.AddrPort{}
	for _, l := range list.Statuses {
		listeners[l.Name] = netip.AddrPortFrom(l.Address.Socket.Address, l.Address.Socket.Port)
	}
	return listeners, nil
}

// Counters returns Envoy's counters whose names end with suffix, added up over
// listeners; those never touched count nothing.
func (p *Proxy) Counters(ctx context.Context, suffix string) (uint64, error) {
	body, err := get(ctx, p.admin+"/stats?usedonly&filter="+url.QueryEscape(suffix+"$"))
	if err != nil {
		return 0, fmt.Errorf("ask Envoy for %s: %w", suffix, err)
	}
	var sum uint64
	for line := range strings.Lines(string(body)) {
		_, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read Envoy's answer %q for %s: %w", line, suffix, err)
		}
		sum += n
	}
	return sum, nil
}

func get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	return body, err
}
