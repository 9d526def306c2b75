// SPDX-License-Identifier: Apache-2.0

package mtls

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
)

// Cases are all cases, by numbers of requests: in the main cases, and in the others. seed is
// of all that is drawn. A case without Joined may miss any number of attempts: its records are
// lost, incomplete, or have wrong times.
func Cases(main, others int, seed uint64) []Case {
	ofTen := Trouble{Lost: 0.1, Doubled: 0.1, Late: 0.1, Reordered: 0.1, Delay: 2 * time.Second}
	step := func(d time.Duration) Trouble { return Trouble{Step: d} }
	tls13, tls12 := lab.TLS{Version: lab.TLS13}, lab.TLS{Version: lab.TLS12}
	cases := []Case{
		{Name: "front-page-tls13", What: "front pages, TLS 1.3", TLS: tls13, Requests: main, Joined: 0.999},
		{Name: "front-page-tls12", What: "front pages, TLS 1.2, RSA chain with an intermediate", TLS: lab.TLS{Version: lab.TLS12, Chain: true},
			Requests: main, Joined: 0.999},
		{Name: "rough-tls13", What: "retries, resets, early and streamed responses, 100-continue, aborts, closes, TLS 1.3", TLS: tls13,
			Requests: main, Rough: true, Joined: 0.995},
		{Name: "rough-tls12", What: "the same, TLS 1.2, ChaCha20-Poly1305", TLS: lab.TLS{Version: lab.TLS12, Ciphers: []string{"ECDHE-ECDSA-CHACHA20-POLY1305"}},
			Requests: others, Rough: true, Joined: 0.995},
		{Name: "records-trouble", What: "10 % of the records lost, 10 % doubled, 10 % late by 2 s, 10 % reordered", TLS: tls13,
			Requests: others, Trouble: ofTen, Joined: 0.99},
		{Name: "rough-records-trouble", What: "the same in the rough mix", TLS: tls13, Requests: others, Rough: true, Trouble: ofTen},
		{Name: "agent-late", What: "agents start in the middle of connections", TLS: tls13, Requests: others, Late: true, Joined: 0.99},
		{Name: "rough-agent-late", What: "the same in the rough mix", TLS: tls12, Requests: others, Rough: true, Late: true, Joined: 0.95},
		{Name: "sampled-1", What: "1 % of the requests sampled", TLS: tls13, Requests: main, Sampling: 1, Joined: 0.999},
		{Name: "inferred", What: "no records: by the plain text inside of the pods", TLS: tls13, Requests: others, Parallel: 8,
			Trouble: Trouble{Lost: 1}, Inferred: true, Joined: 0.4, Wrong: 0.01},
		{Name: "rough-inferred", What: "the same in the rough mix", TLS: tls13, Requests: others, Rough: true, Trouble: Trouble{Lost: 1},
			Inferred: true, Joined: 0.15, Wrong: 0.01},
		{Name: "telemetry", What: "only what Istio's Telemetry API configures", TLS: tls13, Requests: others},
	}
	cases[len(cases)-1].TLS.Telemetry = true
	for _, by := range []time.Duration{5 * time.Millisecond, -5 * time.Millisecond, time.Second, -time.Second} {
		name := strings.NewReplacer("-", "back-").Replace(by.String())
		cases = append(cases,
			Case{Name: "step-" + name, What: fmt.Sprintf("the clock of the records off by %v for a third of the requests", by), TLS: tls13,
				Requests: others, Trouble: step(by)},
			Case{Name: "rough-step-" + name, What: "the same in the rough mix", TLS: tls13, Requests: others, Rough: true, Trouble: step(by)})
	}
	cases = append(cases, Case{Name: "paused", What: "1 % of the senders' records early by up to 5 ms, as of proxies that are paused between their clocks",
		TLS: tls13, Requests: others, Trouble: Trouble{Paused: 0.01}, Joined: 0.998})
	for i := range cases {
		if cases[i].Parallel == 0 {
			cases[i].Parallel = 64
		}
		cases[i].Seed = seed*100 + uint64(i)
		cases[i].Trouble.Seed = cases[i].Seed
	}
	return cases
}

// Check returns an error if a result is not good enough: anything wrong, too few attempts
// joined, or too many not decrypted.
func (c Case) Check(r *Result) error {
	var errs []error
	fail := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: "+format, append([]any{c.Name}, args...)...))
	}
	if float64(r.Wrong) > c.Wrong*float64(r.Observed) || r.Doubled > 0 {
		fail("%d observations are wrong, %d doubled: %s", r.Wrong, r.Doubled, strings.Join(r.Examples, "; "))
	}
	// An attempt that was aborted early may not reach the application.
	if missing := r.Attempts - r.Decrypted; missing > max(1, r.Attempts*maxUnread/1000) {
		fail("%d of %d attempts were not decrypted", missing, r.Attempts)
	}
	if r.Unread > max(1, r.Decrypted*maxUnread/1000) {
		fail("%d observations could not be judged, of %d attempts", r.Unread, r.Decrypted)
	}
	// Only records that close a connection in the wrong moment leave an end open.
	// Without records it is unknown which ends are alerts.
	if !c.Inferred && r.Guessed > max(4, r.Observed*maxUnread/1000) {
		fail("the ends of %d of %d observations are guessed", r.Guessed, r.Observed)
	}
	joined := r.Exact + r.Time + r.Inferred
	judged := joined + r.Missing
	if judged == 0 || float64(joined) < c.Joined*float64(judged) {
		fail("%d of %d attempts are joined at all points, want %.1f %%: %s", joined, judged, 100*c.Joined, strings.Join(r.Examples, "; "))
	}
	if e := r.Explained; c.Inferred && (e.Traces == 0 || e.High > 0 || e.Spans == 0 || e.Unmarked > 0) {
		fail("want no high confidence and no span that is not marked: %+v", *e)
	}
	if c.Trouble.Paused > 0 && r.Relay["paused"] == 0 {
		fail("no record was made early")
	}
	if c.Sampling > 0 && !c.Rough && (r.Written != 2*r.Sampled || r.Records != r.Written) {
		fail("%d records were written for %d sampled attempts, want two for each, and %d came to agents", r.Written, r.Sampled, r.Records)
	}
	return errors.Join(errs...)
}

// maxUnread is how many of 1000 may be undecrypted (attempts), not judged, or have a guessed
// end (observations).
const maxUnread = 20
