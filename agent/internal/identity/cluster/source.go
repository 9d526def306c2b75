// SPDX-License-Identifier: Apache-2.0

// Package cluster tells who is behind an interface or an address from a
// Kubernetes API server: it follows the pods of this node and the addresses of
// all others, and finds out which pod each interface of this node belongs to.
package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/go-logr/logr"
	"github.com/vishvananda/netlink"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/agent/internal/identity"
	"github.com/layertrace/layertrace/internal/observe"
)

// purgeInterval is the time between two looks for what can be forgotten.
const purgeInterval = 30 * time.Second

// Options of a Source. All but Netlink are needed.
type Options struct {
	// Config tells how to reach the API server; see Load.
	Config *rest.Config
	// Node is this node's name in the cluster.
	Node string
	// Linger is how long after its end an exchange can be reported.
	Linger time.Duration
	// UserAgent is told to the API server.
	UserAgent string
	Log       *slog.Logger
	// Netlink is of the network namespace with the interfaces; nil: the calling
	// thread's.
	Netlink *netlink.Handle
}

// Source is the identity source of a Kubernetes cluster. It knows nothing
// before Run, and keeps what it knows while the API server is away.
type Source struct {
	opts          Options
	index         *index
	links         *links
	client        *rest.RESTClient
	local, remote feed
	here, others  contact
	started       uint64
}

var _ identity.Source = (*Source)(nil)

// New returns a source. It fails for a configuration that cannot be used, not
// for a server that does not answer.
func New(opts Options) (*Source, error) {
	client, err := newClient(opts.Config, opts.UserAgent)
	if err != nil {
		return nil, err
	}
	if opts.Netlink == nil {
		if opts.Netlink, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return nil, fmt.Errorf("open netlink: %w", err)
		}
	}
	index := newIndex(opts.Linger, monotonic)
	s := &Source{
		opts: opts, index: index, client: client, started: monotonic(),
		links:  newLinks(index, opts.Netlink, opts.Log),
		here:   contact{what: "this node's pods", log: opts.Log},
		others: contact{what: "other nodes' pods", log: opts.Log},
	}
	s.local = feed{index: index, local: true, changed: s.links.look}
	s.remote = feed{index: index, changed: func() {}}
	return s, nil
}

// Run follows the cluster until ctx is done.
func (s *Source) Run(ctx context.Context) error {
	running, runningCtx := errgroup.WithContext(ctx)
	quietCtx := klog.NewContext(runningCtx, logr.FromSlogHandler(quiet{s.opts.Log.Handler()}))
	const alive = "status.phase!=Succeeded,status.phase!=Failed"
	running.Go(func() error {
		s.reflect(quietCtx, "spec.nodeName="+s.opts.Node+","+alive, &s.here, &s.local)
		return nil
	})
	running.Go(func() error {
		s.reflect(quietCtx, "spec.nodeName!="+s.opts.Node+",spec.nodeName!=,"+alive, &s.others, &s.remote)
		return nil
	})
	running.Go(func() error { s.links.run(runningCtx); return nil })
	running.Go(func() error { s.purge(runningCtx); return nil })
	return running.Wait()
}

// reflect keeps a feed up to date until ctx is done. After an outage it tries
// again every 5 to 10 s at the latest.
func (s *Source) reflect(ctx context.Context, selector string, c *contact, f *feed) {
	reflector := cache.NewReflectorWithOptions(pods(s.client, selector, c.outcome), &core.Pod{}, f, cache.ReflectorOptions{
		Name:    c.what,
		Backoff: &wait.Backoff{Duration: 500 * time.Millisecond, Cap: 5 * time.Second, Steps: 8, Factor: 2, Jitter: 1},
	})
	reflector.RunWithContext(ctx)
}

func (s *Source) purge(ctx context.Context) {
	ticker := time.NewTicker(purgeInterval)
	defer ticker.Stop()
	for told := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.index.purge()
			if here, _, _ := s.index.count(); here == 0 && s.local.synced.Load() && !told {
				told = true
				s.opts.Log.Warn("the cluster has no pod on this node; if that is not its name there, set --node", "node", s.opts.Node)
			}
		}
	}
}

// Peer returns the pod that had an address at a time, else the node that has it.
func (s *Source) Peer(addr netip.Addr, at uint64) (observe.Workload, bool) {
	return s.index.peer(addr, at)
}

// Behind returns the pod behind an interface: the one that was found there,
// else the one of this node that had the address at the interface's far end.
func (s *Source) Behind(sight identity.Sight) (observe.Workload, bool) {
	return s.links.behind(sight)
}

// Track tells that a virtual interface came, or that it is there.
func (s *Source) Track(ifindex int) { s.links.track(ifindex) }

// Leave tells that an interface went. Its exchanges are still to come.
func (s *Source) Leave(ifindex int) { s.links.leave(ifindex) }

// Forget tells that nobody will ask for an interface any more.
func (s *Source) Forget(ifindex int) { s.links.forget(ifindex) }

// settling is how long after the agent's start, and after an interface came,
// a name is waited for.
const settling = uint64(10 * time.Second)

// Unsettled reports whether the name of who is behind an interface may come
// soon: the cluster is not known yet, or the interface is so young that its
// pod has no address yet.
func (s *Source) Unsettled(ifindex int) bool {
	now := monotonic()
	if !s.synced() && now-s.started < settling {
		return true
	}
	return s.links.unsettled(ifindex, now)
}

func (s *Source) synced() bool { return s.local.synced.Load() && s.remote.synced.Load() }

// Ready returns an error until the pods are known, and later a remark while the
// API server does not answer.
func (s *Source) Ready() (remark string, err error) {
	for _, c := range []*contact{&s.here, &s.others} {
		since, _, last := c.trouble()
		if since.IsZero() {
			continue
		}
		if !s.synced() {
			return "", fmt.Errorf("%s are not known yet: %w", c.what, last)
		}
		return fmt.Sprintf("%s as of %v ago: the API server does not answer", c.what, time.Since(since).Round(time.Second)), nil
	}
	if !s.synced() {
		return "", fmt.Errorf("reading the cluster's pods")
	}
	return "", nil
}

// monotonic is the clock that exchanges are timed with.
func monotonic() uint64 {
	var ts unix.Timespec
	// It fails for an unknown clock or a bad address, which these are not.
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return uint64(ts.Nano())
}
