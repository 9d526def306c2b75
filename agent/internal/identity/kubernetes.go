// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/internal/observe"
)

const (
	// purgeInterval is the time between two purges of the index.
	purgeInterval = 30 * time.Second
	// settleTime is how long a name can be missing after the agent has started
	// or an interface has appeared.
	settleTime = uint64(10 * time.Second)
)

// KubernetesOptions configure a Kubernetes source. All but Netlink are required.
type KubernetesOptions struct {
	// Config is how to reach the API server; see LoadKubeConfig.
	Config *rest.Config
	// Node is this node's name in the cluster.
	Node string
	// GracePeriod is how long after its end an exchange can still be reported.
	GracePeriod time.Duration
	// UserAgent identifies the agent to the API server.
	UserAgent string
	Log       *slog.Logger
	// Netlink is a handle of the interfaces' network namespace; nil: the
	// calling thread's.
	Netlink *netlink.Handle
}

// Kubernetes is the Source of a Kubernetes cluster: it watches the pods and
// finds the pod of each interface of this node. It is empty before Run, and
// keeps its state while the API server is unreachable.
type Kubernetes struct {
	opts                    KubernetesOptions
	index                   *podIndex
	owners                  *ifaceOwners
	client                  *rest.RESTClient
	local, remote           podStore
	localHealth, restHealth apiHealth
	started                 uint64
}

var (
	_ Source               = (*Kubernetes)(nil)
	_ prometheus.Collector = (*Kubernetes)(nil)
)

// NewKubernetes returns a source. It fails if the configuration is invalid, not
// if the API server is unreachable.
func NewKubernetes(opts KubernetesOptions) (*Kubernetes, error) {
	client, err := newClient(opts.Config, opts.UserAgent)
	if err != nil {
		return nil, err
	}
	if opts.Netlink == nil {
		if opts.Netlink, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return nil, fmt.Errorf("open netlink: %w", err)
		}
	}
	index := newPodIndex(opts.GracePeriod, monotonic)
	k := &Kubernetes{
		opts: opts, index: index, client: client, started: monotonic(),
		owners:      newIfaceOwners(index, opts.Netlink, opts.Log),
		localHealth: apiHealth{of: "this node's pods", log: opts.Log},
		restHealth:  apiHealth{of: "other nodes' pods", log: opts.Log},
	}
	k.local = podStore{index: index, local: true, changed: k.owners.search}
	k.remote = podStore{index: index, changed: func() {}}
	return k, nil
}

// Run watches the cluster until ctx is done.
func (k *Kubernetes) Run(ctx context.Context) error {
	running, runningCtx := errgroup.WithContext(ctx)
	filteredCtx := klog.NewContext(runningCtx, logr.FromSlogHandler(logFilter{k.opts.Log.Handler()}))
	const alive = "status.phase!=Succeeded,status.phase!=Failed"
	running.Go(func() error {
		k.reflect(filteredCtx, "spec.nodeName="+k.opts.Node+","+alive, &k.localHealth, &k.local)
		return nil
	})
	running.Go(func() error {
		k.reflect(filteredCtx, "spec.nodeName!="+k.opts.Node+",spec.nodeName!=,"+alive, &k.restHealth, &k.remote)
		return nil
	})
	running.Go(func() error { k.owners.run(runningCtx); return nil })
	running.Go(func() error { k.purge(runningCtx); return nil })
	return running.Wait()
}

// reflect keeps a store up to date until ctx is done. During an outage it
// retries at least every 10 s.
func (k *Kubernetes) reflect(ctx context.Context, selector string, health *apiHealth, store *podStore) {
	reflector := cache.NewReflectorWithOptions(listerWatcher(k.client, selector, health.observe), &core.Pod{}, store, cache.ReflectorOptions{
		Name:    health.of,
		Backoff: &wait.Backoff{Duration: 500 * time.Millisecond, Cap: 5 * time.Second, Steps: 8, Factor: 2, Jitter: 1},
	})
	reflector.RunWithContext(ctx)
}

func (k *Kubernetes) purge(ctx context.Context) {
	ticker := time.NewTicker(purgeInterval)
	defer ticker.Stop()
	for warned := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			k.index.purge()
			if local, _, _ := k.index.count(); local == 0 && k.local.synced.Load() && !warned {
				warned = true
				k.opts.Log.Warn("the cluster has no pods on this node; if its name in the cluster differs, set --node", "node", k.opts.Node)
			}
		}
	}
}

// Owner implements Source: the pod found at an interface, else the pod of this
// node that had the address at the interface's far end.
func (k *Kubernetes) Owner(l Lookup) (observe.Workload, bool) { return k.owners.owner(l) }

// Peer implements Source: the pod that had the address, else the node.
func (k *Kubernetes) Peer(addr netip.Addr, at uint64) (observe.Workload, bool) {
	return k.index.peer(addr, at)
}

// Track starts the search for the pod of a virtual interface.
func (k *Kubernetes) Track(ifindex int) { k.owners.track(ifindex) }

// Leave marks an interface as gone. Its exchanges are still to come.
func (k *Kubernetes) Leave(ifindex int) { k.owners.leave(ifindex) }

// Forget drops an interface whose exchanges have all come.
func (k *Kubernetes) Forget(ifindex int) { k.owners.forget(ifindex) }

// MayChange reports whether the owner of an interface may become known soon:
// the cluster has not been read yet, or the interface is so young that its pod
// may have no address yet.
func (k *Kubernetes) MayChange(ifindex int) bool {
	now := monotonic()
	if !k.synced() && now-k.started < settleTime {
		return true
	}
	return k.owners.mayChange(ifindex, now)
}

func (k *Kubernetes) synced() bool { return k.local.synced.Load() && k.remote.synced.Load() }

// Ready returns an error until the pods have been read, and later a remark
// while the API server does not respond.
func (k *Kubernetes) Ready() (remark string, err error) {
	for _, health := range []*apiHealth{&k.localHealth, &k.restHealth} {
		since, _, last := health.outage()
		if since.IsZero() {
			continue
		}
		if !k.synced() {
			return "", fmt.Errorf("%s are not known yet: %w", health.of, last)
		}
		return fmt.Sprintf("the API server does not respond: %s are as of %v ago", health.of, time.Since(since).Round(time.Second)), nil
	}
	if !k.synced() {
		return "", errors.New("the cluster's pods are being read")
	}
	return "", nil
}

// monotonic returns the time of the clock that exchanges are timed with. span.Clock
// relates that clock to the wall clock, and is later in the import order.
func monotonic() uint64 {
	var ts unix.Timespec
	// It fails for an unknown clock or a bad address only.
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return uint64(ts.Nano())
}

var (
	podsDesc = prometheus.NewDesc("layertrace_identity_pods",
		"Known pods, on the agent's node (`local`) and on others (`remote`).", []string{"scope"}, nil)
	nodesDesc = prometheus.NewDesc("layertrace_identity_nodes",
		"Nodes with known addresses.", nil, nil)
	syncedDesc = prometheus.NewDesc("layertrace_identity_synced",
		"1 once the cluster's pods have been read.", nil, nil)
	apiAwayDesc = prometheus.NewDesc("layertrace_identity_api_away_seconds",
		"Duration of the API server's outage, 0 if there is none.", nil, nil)
	apiFailuresDesc = prometheus.NewDesc("layertrace_identity_api_failures_total",
		"Failed requests to the API server.", nil, nil)
	netlinkFailuresDesc = prometheus.NewDesc("layertrace_identity_netlink_failures_total",
		"Failed searches for the pods of interfaces.", nil, nil)
	byTrafficDesc = prometheus.NewDesc("layertrace_identity_by_traffic_total",
		"Lookups of an interface's pod that only the address in the packets resolved.", nil, nil)
	interfacesDesc = prometheus.NewDesc("layertrace_identity_interfaces",
		"Present virtual interfaces, by how their pod was found.", []string{"by"}, nil)
)

// Describe implements prometheus.Collector.
func (k *Kubernetes) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		podsDesc, nodesDesc, syncedDesc, apiAwayDesc, apiFailuresDesc, netlinkFailuresDesc, byTrafficDesc, interfacesDesc,
	} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (k *Kubernetes) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
	local, remote, nodes := k.index.count()
	gauge(podsDesc, float64(local), "local")
	gauge(podsDesc, float64(remote), "remote")
	gauge(nodesDesc, float64(nodes))
	synced := 0.0
	if k.synced() {
		synced = 1
	}
	gauge(syncedDesc, synced)
	gauge(apiAwayDesc, k.apiAway().Seconds())
	counter(apiFailuresDesc, k.apiFailures())
	counter(netlinkFailuresDesc, k.owners.failures.Load())
	counter(byTrafficDesc, k.owners.byTraffic.Load())
	for by, n := range k.owners.count() {
		gauge(interfacesDesc, float64(n), by)
	}
}

func (k *Kubernetes) apiAway() (longest time.Duration) {
	for _, health := range []*apiHealth{&k.localHealth, &k.restHealth} {
		if since, _, _ := health.outage(); !since.IsZero() {
			longest = max(longest, time.Since(since))
		}
	}
	return longest
}

func (k *Kubernetes) apiFailures() (n uint64) {
	for _, health := range []*apiHealth{&k.localHealth, &k.restHealth} {
		_, failures, _ := health.outage()
		n += failures
	}
	return n
}

// apiHealth records the outcome of one reflector's requests.
type apiHealth struct {
	of  string // what is requested
	log *slog.Logger

	mu       sync.Mutex
	failures uint64
	since    time.Time // of the first failure in a row; zero: healthy
	last     error
}

// observe records the outcome of a request and logs changes.
func (h *apiHealth) observe(err error) {
	if errors.Is(err, context.Canceled) { // shutting down
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil || isExpected(err) {
		if !h.since.IsZero() {
			h.log.Info("the API server responds again", "for", h.of, "away", time.Since(h.since).Round(time.Second))
		}
		h.since, h.last = time.Time{}, nil
		return
	}
	h.failures++
	if h.since.IsZero() {
		h.since = time.Now()
		h.log.Warn("cannot read from the API server; continuing with the known pods, and retrying", "for", h.of, "error", withAdvice(err))
	}
	h.last = withAdvice(err)
}

// isExpected reports whether an error is the server's request to list again or to
// list without streaming, which the reflector handles.
func isExpected(err error) bool {
	return apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || apierrors.IsInvalid(err)
}

func withAdvice(err error) error {
	if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
		return fmt.Errorf("%w; grant list and watch on pods to the agent's service account", err)
	}
	return err
}

// outage returns the start of the present outage (zero: none), the number of
// failed requests so far, and the last error of the outage.
func (h *apiHealth) outage() (since time.Time, failures uint64, last error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.since, h.failures, h.last
}

// logFilter turns client-go's messages into debug messages and drops its
// verbose levels. client-go logs each attempt; apiHealth logs each outage once.
type logFilter struct{ slog.Handler }

// Enabled implements slog.Handler.
func (f logFilter) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo && f.Handler.Enabled(ctx, slog.LevelDebug)
}

// Handle implements slog.Handler.
func (f logFilter) Handle(ctx context.Context, r slog.Record) error {
	r.Level = slog.LevelDebug
	return f.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (f logFilter) WithAttrs(attrs []slog.Attr) slog.Handler {
	return logFilter{f.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (f logFilter) WithGroup(name string) slog.Handler { return logFilter{f.Handler.WithGroup(name)} }

// LoadKubeConfig returns how to reach the API server: from a kubeconfig file,
// or for "" from the pod's service account.
func LoadKubeConfig(file string) (*rest.Config, error) {
	if file == "" {
		config, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("--kubernetes: %w; outside of a pod, set --kubeconfig", err)
		}
		return config, nil
	}
	config, err := clientcmd.BuildConfigFromFlags("", file)
	if err != nil {
		return nil, fmt.Errorf("--kubeconfig %s: %w", file, err)
	}
	return config, nil
}

// newClient returns a client of core/v1 only: the clientset would link the
// types of all API groups into the binary. It uses protobuf, a third of the
// size of JSON.
func newClient(config *rest.Config, userAgent string) (*rest.RESTClient, error) {
	scheme := runtime.NewScheme()
	if err := core.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("register core/v1: %w", err)
	}
	c := rest.CopyConfig(config)
	c.APIPath, c.GroupVersion = "/api", &core.SchemeGroupVersion
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	c.AcceptContentTypes, c.ContentType = runtime.ContentTypeProtobuf+","+runtime.ContentTypeJSON, runtime.ContentTypeProtobuf
	c.UserAgent, c.WarningHandler = userAgent, rest.NoWarnings{}
	client, err := rest.RESTClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("make an API client: %w", err)
	}
	return client, nil
}

// listerWatcher lists and watches the pods that match a field selector, and
// calls outcome after each request.
func listerWatcher(client rest.Interface, selector string, outcome func(error)) cache.ListerWatcher {
	request := func(o meta.ListOptions) *rest.Request {
		o.FieldSelector = selector
		return client.Get().Resource("pods").VersionedParams(&o, meta.ParameterCodec)
	}
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o meta.ListOptions) (runtime.Object, error) {
			o.Limit, o.Continue = 0, "" // not paged; see readPodList
			list, err := listPods(ctx, request(o))
			outcome(err)
			if err != nil {
				return nil, err
			}
			return list, nil
		},
		WatchFuncWithContext: func(ctx context.Context, o meta.ListOptions) (watch.Interface, error) {
			o.Watch = true
			w, err := request(o).Watch(ctx)
			outcome(err)
			return w, err
		},
	}
}

// listPods requests a list and decodes it while it arrives.
func listPods(ctx context.Context, request *rest.Request) (*podRecords, error) {
	body, err := request.SetHeader("Accept", runtime.ContentTypeProtobuf).Stream(ctx)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return readPodList(body)
}
