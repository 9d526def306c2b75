// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/layertrace/layertrace/agent/internal/accesslog"
	"github.com/layertrace/layertrace/agent/internal/encrypted"
	"github.com/layertrace/layertrace/agent/internal/span"
	"github.com/layertrace/layertrace/internal/observe"
)

// Encrypted is the kernel side for connections that proxies encrypt. It collects its own
// metrics.
type Encrypted interface {
	prometheus.Collector
	attacher
	encrypted.Source
	encrypted.Lister
	// Run forgets connections that have ended, until ctx is done.
	Run(ctx context.Context) error
	// RunTime returns for how long its programs have run while the kernel measured them.
	RunTime() (time.Duration, error)
	// Close removes everything from the kernel.
	Close() error
}

// receiverTimeout is how long requests with records may take to end when the agent stops.
const receiverTimeout = time.Second

// joining gives encrypted exchanges their trace: the proxies' records come to the receiver,
// the joiner looks up what the kernel saw of their connections.
type joining struct {
	kernel   Encrypted
	receiver *accesslog.Receiver // nil: no records
	joiner   *encrypted.Joiner
	out      chan observe.Observation
}

// joinMetrics are the metrics of a joining.
type joinMetrics struct {
	receiver *accesslog.Metrics
	joiner   *encrypted.Metrics
}

func newJoinMetrics(r prometheus.Registerer) joinMetrics {
	return joinMetrics{accesslog.NewMetrics(r), encrypted.NewMetrics(r)}
}

// newJoining loads the kernel side and listens for records. While leavesOut, it takes none.
func newJoining(opts Options, names resolver, points *registry, clock *span.Clock, leavesOut func() bool, r prometheus.Registerer) (*joining, error) {
	cfg := opts.Config
	kernel, err := opts.OpenEncrypted(cfg, opts.Log)
	if err != nil {
		return nil, err
	}
	r.MustRegister(kernel)
	metrics := newJoinMetrics(r)
	j := &joining{kernel: kernel, out: make(chan observe.Observation, 256)}
	var lister encrypted.Lister
	if cfg.MTLSInfer {
		lister = kernel
	}
	j.joiner = encrypted.New(encrypted.Options{
		Infer:  lister,
		Source: kernel, Offset: func() int64 { return int64(clock.Measure()) }, Monotonic: span.Monotonic,
		Wants: points.isOnSide, Out: func(o *observe.Observation) { j.out <- *o }, Log: opts.Log,
	}, metrics.joiner)
	if cfg.AccessLogAddress == "" {
		return j, nil
	}
	take := func(records []accesslog.Record) int {
		if leavesOut() {
			return 0 // the receiver counts them
		}
		return j.joiner.Add(records)
	}
	j.receiver, err = accesslog.Listen(accesslog.Options{
		Address: cfg.AccessLogAddress, Take: take, Preferred: cfg.ContextFormats,
		SamePod: names.samePod, OtherNode: names.isOtherNode, Sender: names.sender, Log: opts.Log,
	}, metrics.receiver)
	if err != nil {
		return nil, errors.Join(err, kernel.Close())
	}
	return j, nil
}

// run receives and joins until ctx is done: then the receiver ends, what it has taken is
// joined, and the channel is closed.
func (j *joining) run(ctx context.Context, group *errgroup.Group) {
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	if j.receiver != nil {
		group.Go(j.receiver.Serve)
	}
	group.Go(func() error { return j.kernel.Run(working) })
	group.Go(func() error {
		<-ctx.Done()
		defer stop()
		if j.receiver != nil {
			closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), receiverTimeout)
			defer cancel()
			j.receiver.Close(closing)
		}
		return nil
	})
	group.Go(func() error {
		defer close(j.out)
		j.joiner.Run(working)
		return nil
	})
}

// joined returns the channel of observations, nil without one.
func (j *joining) joined() <-chan observe.Observation {
	if j == nil {
		return nil
	}
	return j.out
}

// address is where records are received.
func (j *joining) address() string {
	if j == nil || j.receiver == nil {
		return "off"
	}
	return j.receiver.Address()
}

// attachers attach several kernel sides to the same interfaces.
type attachers []attacher

// Attach attaches all or none.
func (a attachers) Attach(ifindex int) error {
	for i, one := range a {
		if err := one.Attach(ifindex); err != nil {
			for _, before := range a[:i] {
				_ = before.Detach(ifindex) // the interface is tried again as a whole
			}
			return err
		}
	}
	return nil
}

// PassesOn passes it to those that filter by it.
func (a attachers) PassesOn(ifindex int, passesOn bool) error {
	var errs []error
	for _, one := range a {
		if f, ok := one.(hostFilter); ok {
			errs = append(errs, f.PassesOn(ifindex, passesOn))
		}
	}
	return errors.Join(errs...)
}

// Detach detaches all.
func (a attachers) Detach(ifindex int) error {
	var errs []error
	for _, one := range a {
		errs = append(errs, one.Detach(ifindex))
	}
	return errors.Join(errs...)
}

// closers close several kernel sides.
type closers []interface{ Close() error }

// Close closes all.
func (c closers) Close() error {
	var errs []error
	for _, one := range c {
		errs = append(errs, one.Close())
	}
	return errors.Join(errs...)
}

// isOnSide reports whether the capture point of a turn is on the side of the request's
// sender (client) or of its receiver. A loopback device is on both.
func (r *registry) isOnSide(t *observe.Turn, client bool) bool {
	if t.Socket != nil {
		return t.Socket.Client == client
	}
	_, i, ok := r.lookUp(t.Interface)
	switch {
	case !ok:
		return false
	case i.Name == "lo":
		return true
	case i.Kind == observe.KindVNIC:
		return (t.Direction == observe.DirectionIngress) == client
	default:
		return (t.Direction == observe.DirectionEgress) == client
	}
}

// samePod reports whether two addresses are those of one pod.
func (n resolver) samePod(a, b netip.Addr) bool {
	if n.cluster == nil {
		return false
	}
	now := span.Monotonic()
	one, _ := n.cluster.Peer(a, now)
	other, _ := n.cluster.Peer(b, now)
	return one.PodUID != "" && one.PodUID == other.PodUID
}

// sender returns the workload that has an address now.
func (n resolver) sender(a netip.Addr) observe.Peer { return n.peer(a, span.Monotonic()) }

// isOtherNode reports whether an address is known to belong to another node.
func (n resolver) isOtherNode(a netip.Addr) bool {
	w, known := n.Peer(a, span.Monotonic())
	return known && w.Node != "" && w.Node != n.node
}
