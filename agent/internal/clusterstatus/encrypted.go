// SPDX-License-Identifier: Apache-2.0

package clusterstatus

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
	telemetryapi "istio.io/api/telemetry/v1alpha1"
	telemetryv1 "istio.io/client-go/pkg/apis/telemetry/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/layertrace/layertrace/agent/internal/install"
)

// Encrypted counts encrypted connections and what became of the proxies' records.
type Encrypted struct {
	// Connections followed, once for each capture point. Of a workload: on its nodes.
	Connections float64 `json:"connections"`
	// Received are the records that were accepted, Refused those not believed or not
	// understood. Of a workload: Refused are those of its nodes.
	Received float64 `json:"records_received"`
	Refused  float64 `json:"records_refused"`
	// Joined found their exchange, by times and sizes or by times alone.
	Joined float64 `json:"records_joined"`
	// Ambiguous and Unmatched found several or none.
	Ambiguous float64 `json:"records_ambiguous"`
	Unmatched float64 `json:"records_unmatched"`
	// Reasons why records were refused, ambiguous or unmatched, with their numbers.
	Reasons map[string]float64 `json:"reasons,omitempty"`
}

// Names of the agents' metrics.
const (
	followedMetric = "layertrace_encrypted_connections_followed_total"
	receivedMetric = "layertrace_access_log_records_total"
	refusedMetric  = "layertrace_access_log_records_refused_total"
	joinedMetric   = "layertrace_encrypted_records_total"
)

// sender is the workload whose proxy sent records, by the labels of the agents' metrics.
type sender struct{ namespace, service string }

// encryptedOf reads an agent's metrics: in all, and what belongs to each sender.
func encryptedOf(families map[string]*dto.MetricFamily) (all Encrypted, bySender map[sender]Encrypted) {
	m := sums(families)
	all = Encrypted{Connections: m[followedMetric], Refused: m[refusedMetric], Reasons: map[string]float64{}}
	for _, one := range families[refusedMetric].GetMetric() {
		all.because("refused", one)
	}
	bySender = map[sender]Encrypted{}
	count := func(metric *dto.Metric, add func(*Encrypted)) {
		from := sender{label(metric, "namespace"), label(metric, "workload")}
		e, known := bySender[from]
		if !known {
			e.Reasons = map[string]float64{}
		}
		add(&e)
		bySender[from] = e
		add(&all)
	}
	for _, one := range families[receivedMetric].GetMetric() {
		count(one, func(e *Encrypted) { e.Received += value(one) })
	}
	for _, one := range families[joinedMetric].GetMetric() {
		count(one, func(e *Encrypted) {
			switch state := label(one, "state"); state {
			case "ambiguous":
				e.Ambiguous += value(one)
				e.because(state, one)
			case "unmatched":
				e.Unmatched += value(one)
				e.because(state, one)
			default:
				e.Joined += value(one)
			}
		})
	}
	return all, bySender
}

func (e *Encrypted) because(state string, m *dto.Metric) {
	if v := value(m); v > 0 {
		e.Reasons[strings.TrimSuffix(state+": "+label(m, "reason"), ": ")] += v
	}
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

func (e Encrypted) plus(f Encrypted, sign float64) Encrypted {
	sum := Encrypted{
		e.Connections + sign*f.Connections, e.Received + sign*f.Received, e.Refused + sign*f.Refused,
		e.Joined + sign*f.Joined, e.Ambiguous + sign*f.Ambiguous, e.Unmatched + sign*f.Unmatched, map[string]float64{},
	}
	maps.Copy(sum.Reasons, e.Reasons)
	for reason, n := range f.Reasons {
		if sum.Reasons[reason] += sign * n; sum.Reasons[reason] == 0 {
			delete(sum.Reasons, reason)
		}
	}
	return sum
}

// minus returns what each sender has in addition to before.
func minus(now, before map[sender]Encrypted) map[sender]Encrypted {
	added := map[sender]Encrypted{}
	for from, e := range now {
		added[from] = e.plus(before[from], -1)
	}
	return added
}

// nameLabels are the labels that name a pod's service, the first match first, as the agents
// name senders (package identity); without any it is the controller's name.
var nameLabels = [...]string{"service.istio.io/canonical-name", "app.kubernetes.io/name", "app"}

func senderOf(pod *corev1.Pod) sender {
	for _, name := range nameLabels {
		if v := pod.Labels[name]; v != "" {
			return sender{pod.Namespace, v}
		}
	}
	return sender{pod.Namespace, workloadName(pod)}
}

// why names the most frequent reasons, at most three.
func (e Encrypted) why() string {
	reasons := slices.SortedFunc(maps.Keys(e.Reasons), func(a, b string) int {
		return cmp.Or(cmp.Compare(e.Reasons[b], e.Reasons[a]), cmp.Compare(a, b))
	})
	var texts []string
	for _, r := range reasons[:min(3, len(reasons))] {
		texts = append(texts, fmt.Sprintf("%.0f %s", e.Reasons[r], r))
	}
	return strings.Join(texts, "; ")
}

// otherVersion completes a problem of agents that do not fit what is installed.
const otherVersion = "layertrace install of the version of the agents' image installs what fits it"

// findEncrypted returns what is wrong with an agent's part for encrypted traffic, by how the
// proxies get to report it, or only those of an installation that is limited; "" if nothing.
func (a Agent) findEncrypted(method string, limited bool) string {
	switch {
	case method == "" && a.MTLS && a.Encrypted.Connections > 0:
		return fmt.Sprintf("it follows encrypted connections (%.0f), but no object lets the proxies report their requests: layertrace install --mtls on", a.Encrypted.Connections)
	case method == "":
		return ""
	case !a.MTLS:
		return "the proxies report encrypted requests, but it does not take the reports: its image is older than what is installed, or its settings have mtls: false; " + otherVersion
	}
	return a.Encrypted.problem(limited)
}

// problem returns what is wrong with an agent that should join records, "" if nothing. Where
// the installation is limited, its encrypted connections may be those of other proxies.
func (e Encrypted) problem(limited bool) string {
	unreadable := e.Reasons["refused: bad_field"]
	// Without a connection the request never left the proxy, so nothing is missing.
	lost := e.Ambiguous + e.Unmatched + e.Refused - e.Reasons["refused: no_connection"]
	switch {
	case unreadable > (1-sufficientShare)*(e.Received+e.Refused):
		return fmt.Sprintf("it cannot read %.0f of %.0f records of encrypted requests: the proxies' log has other fields than this agent needs; %s", unreadable, e.Received+e.Refused, otherVersion)
	case !limited && e.Connections > 0 && e.Received+e.Refused == 0:
		return fmt.Sprintf("it follows encrypted connections (%.0f), but no proxy has sent a record: nothing was sampled, or the proxies cannot reach it; see access-log above and the workloads", e.Connections)
	case lost > (1-sufficientShare)*(e.Joined+lost):
		return fmt.Sprintf("%.0f of %.0f records of encrypted requests found no exchange (%s): docs/mtls.md has the reasons", lost, e.Joined+lost, e.why())
	}
	return ""
}

// droppedSuffix ends the name of Envoy's counter of records that it dropped because no agent
// took them (Envoy, source/extensions/access_loggers/common/grpc_access_logger.h). Istio
// serves it only if the mesh configuration's proxyStatsMatcher includes access_logs.
const droppedSuffix = "open_telemetry_access_log_logs_dropped"

// Reports is whether a workload's proxies report requests to the agents.
type Reports struct {
	On bool `json:"on"`
	// Reason is why they do not, or only in part.
	Reason string `json:"reason,omitempty"`
}

// reportsOf returns whether a pod's proxy reports requests, by its configuration. An
// EnvoyFilter is read by the proxies within the limits only.
func reportsOf(pod *corev1.Pod, root, method string, limits install.Limits, all []*telemetryv1.Telemetry, config *install.MeshConfig) Reports {
	const outside = "outside of the limits"
	covered := limits.Covers(pod.Namespace, pod.Labels)
	switch {
	case method == "":
		return Reports{Reason: "--mtls is off"}
	case proxyImage(pod) == "":
		return Reports{Reason: "no sidecar"}
	case method == install.MTLSEnvoyFilter && covered:
		return Reports{On: true}
	case method == install.MTLSEnvoyFilter:
		return Reports{Reason: outside}
	}
	levels, names := logLevels(pod, root, all)
	if config == nil {
		config = &install.MeshConfig{}
	}
	var missing []string
	for _, want := range []struct {
		mode     telemetryapi.WorkloadMode
		provider string
	}{{telemetryapi.WorkloadMode_CLIENT, install.ClientProvider}, {telemetryapi.WorkloadMode_SERVER, install.ServerProvider}} {
		if !install.LogsTo(want.provider, want.mode, levels, config.DefaultProviders.AccessLogging) {
			missing = append(missing, want.provider)
		}
	}
	switch {
	case len(missing) == 0:
		return Reports{On: true}
	case len(missing) == 2 && !covered:
		return Reports{Reason: outside}
	case len(names) == 0:
		return Reports{Reason: "no Telemetry resource has accessLogging"}
	default:
		return Reports{On: len(missing) == 1, Reason: fmt.Sprintf("%s leaves out %s", names[len(names)-1], strings.Join(missing, " and "))}
	}
}

// logLevels returns the accessLogging of the Telemetry resources that apply to a pod, and
// their names, from the mesh to the workload. Of those for a whole namespace the oldest
// counts (Istio, pilot/pkg/model/telemetry.go).
func logLevels(pod *corev1.Pod, root string, all []*telemetryv1.Telemetry) (levels [][]*telemetryapi.AccessLogging, names []string) {
	sorted := slices.SortedStableFunc(slices.Values(all), func(a, b *telemetryv1.Telemetry) int {
		return a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
	})
	add := func(t *telemetryv1.Telemetry) {
		if len(t.Spec.AccessLogging) > 0 {
			levels = append(levels, t.Spec.AccessLogging)
			names = append(names, fmt.Sprintf("Telemetry %s/%s", t.Namespace, t.Name))
		}
	}
	for _, namespace := range slices.Compact([]string{root, pod.Namespace}) {
		for _, t := range sorted {
			if t.Namespace == namespace && install.ForWholeNamespace(t) {
				add(t)
				break
			}
		}
	}
	for _, t := range sorted {
		match := t.Spec.GetSelector().GetMatchLabels()
		if t.Namespace == pod.Namespace && len(match) > 0 && labels.SelectorFromSet(match).Matches(labels.Set(pod.Labels)) {
			add(t)
		}
	}
	return levels, names
}
