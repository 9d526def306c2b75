// SPDX-License-Identifier: Apache-2.0

package tracestore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"go.opentelemetry.io/otel/trace"
)

// Kind is a kind of trace store that is queried over HTTP.
type Kind string

// The kinds of trace stores.
const (
	// Auto is the kind that answers at the URL.
	Auto   Kind = "auto"
	Jaeger Kind = "jaeger"
	Zipkin Kind = "zipkin"
	Tempo  Kind = "tempo"
)

// Kinds are all kinds.
var Kinds = []Kind{Auto, Jaeger, Zipkin, Tempo}

// product returns the name of a kind in messages.
func (k Kind) product() string {
	switch k {
	case Jaeger:
		return "Jaeger"
	case Zipkin:
		return "Zipkin"
	case Tempo:
		return "Tempo"
	}
	return "the trace store"
}

// DefaultURL returns where a store of the kind listens by default: Jaeger's UI,
// Zipkin's server, Tempo's API.
func (k Kind) DefaultURL() string {
	switch k {
	case Zipkin:
		return "http://localhost:9411"
	case Tempo:
		return "http://localhost:3200"
	}
	return "http://localhost:16686"
}

// Address is where a store is.
type Address struct {
	// Kind is what it is; Auto: asked at the URL.
	Kind Kind
	// URL is that of the store's UI or API, with its base path.
	URL string
	// Flag is the flag or variable that had the URL, for messages.
	Flag string
}

// Open returns the store at an address. It makes requests only to find out the kind.
func Open(ctx context.Context, at Address, client *http.Client) (Store, error) {
	r, err := newRemote(at, client)
	if err != nil {
		return nil, err
	}
	if r.kind == Auto {
		if r.kind, err = r.detect(ctx); err != nil {
			return nil, err
		}
	}
	switch r.kind {
	case Jaeger:
		return &jaeger{r}, nil
	case Zipkin:
		return &zipkin{r}, nil
	case Tempo:
		return &tempo{r}, nil
	}
	return nil, fmt.Errorf("%q is not a kind of trace store: want %s", at.Kind, kindList())
}

func kindList() string {
	names := make([]string, len(Kinds))
	for i, k := range Kinds {
		names[i] = string(k)
	}
	return strings.Join(names, ", ")
}

// remote is a store that is queried over HTTP.
type remote struct {
	kind   Kind
	base   string
	flag   string
	client *http.Client
	most   int // bytes of a response
}

func newRemote(at Address, client *http.Client) (*remote, error) {
	u, err := url.Parse(at.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("%q is not a URL of %s: set %s to %s", at.URL, at.Kind.product(), at.Flag,
			strings.Replace(at.Kind.DefaultURL(), "localhost", "HOST", 1))
	}
	u.RawQuery, u.Fragment = "", ""
	return &remote{kind: at.Kind, base: strings.TrimRight(u.String(), "/"), flag: at.Flag, client: client, most: maxResponse}, nil
}

// Name returns the product and the URL, without a password.
func (r *remote) Name() string {
	u, err := url.Parse(r.base)
	if err != nil {
		return r.kind.product()
	}
	return r.kind.product() + " at " + u.Redacted()
}

// get sends a request. The caller closes the body of the response.
func (r *remote) get(ctx context.Context, path string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.base+path, nil)
	if err != nil {
		return nil, fmt.Errorf("query %s: %w; correct %s", r.kind.product(), err, r.flag)
	}
	request.Header.Set("Accept", "application/json")
	response, err := r.client.Do(request)
	switch {
	case ctx.Err() != nil:
		return nil, r.late(ctx)
	case err != nil:
		return nil, fmt.Errorf("%s cannot be reached: %w; set %s to its address, or read a file with --file", r.Name(), errors.Unwrap(err), r.flag)
	}
	response.Body = &bounded{ReadCloser: response.Body, left: r.most}
	return response, nil
}

// maxResponse is how many bytes of a response are read: hundreds of traces of a thousand spans.
const maxResponse = 256 << 20

// errTooLarge is the cause when a response is longer than maxResponse.
var errTooLarge = fmt.Errorf("it has more than %d MiB", maxResponse>>20)

// bounded is a body that ends with errTooLarge.
type bounded struct {
	io.ReadCloser
	left int
}

// Read implements io.Reader.
func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLarge
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

func (r *remote) tooLarge() error {
	return fmt.Errorf("read the response of %s: %w; ask for fewer traces with --limit or --baseline", r.Name(), errTooLarge)
}

func (r *remote) late(ctx context.Context) error {
	return fmt.Errorf("%s did not respond in time: %w", r.Name(), ctx.Err())
}

// maxReason is how many bytes of a store's words are repeated in an error.
const maxReason = 300

func shortened(why string) string {
	if len(why) <= maxReason {
		return why
	}
	return why[:maxReason] + "..."
}

// errRefused is the cause when the store itself responds with an error.
var errRefused = errors.New("refused")

// json decodes the response to a query into data. It returns false for a 404. Stores say
// in words why they refuse a query.
func (r *remote) json(ctx context.Context, path string, data any) (found bool, err error) {
	response, err := r.get(ctx, path)
	if err != nil {
		return false, err
	}
	defer response.Body.Close()
	switch {
	case response.StatusCode == http.StatusNotFound:
		return false, nil
	case response.StatusCode == http.StatusBadRequest || response.StatusCode == http.StatusUnprocessableEntity:
		why, _ := io.ReadAll(io.LimitReader(response.Body, maxReason)) // what was read is the reason
		return false, fmt.Errorf("%s %w: %s (%s)", r.Name(), errRefused, strings.TrimSpace(string(why)), response.Status)
	case response.StatusCode != http.StatusOK:
		return false, r.unexpected(response)
	}
	err = json.NewDecoder(response.Body).Decode(data)
	switch {
	case ctx.Err() != nil:
		return false, r.late(ctx)
	case errors.Is(err, errTooLarge):
		return false, r.tooLarge()
	case errors.Is(err, io.ErrUnexpectedEOF):
		return false, r.truncated()
	case err != nil:
		return false, r.foreign(response)
	}
	return true, nil
}

// search is json for a search, to which a store does not respond with a 404.
func (r *remote) search(ctx context.Context, path string, data any) error {
	found, err := r.json(ctx, path, data)
	if err == nil && !found {
		err = fmt.Errorf("%s responds 404 to a search: is this the address of %s? Correct %s", r.Name(), r.kind.product(), r.flag)
	}
	return err
}

// notFound is the error for a trace that the store does not have.
func (r *remote) notFound(id trace.TraceID) error {
	return fmt.Errorf("%s: %w as %s", r.Name(), ErrNotFound, id)
}

// unreadable is the error for a response in the store's format with a wrong value.
func (r *remote) unreadable(err error) error {
	return fmt.Errorf("read the response of %s: %w", r.Name(), err)
}

// unexpected is the error for a status that the store would not send.
func (r *remote) unexpected(response *http.Response) error {
	return fmt.Errorf("%s responds %s%s: is this the address of %s? Correct %s", r.Name(), response.Status, location(response), r.kind.product(), r.flag)
}

// foreign is the error for a body that the store would not send.
func (r *remote) foreign(response *http.Response) error {
	return fmt.Errorf("%s responds with %s instead of traces: is this the address of %s? Correct %s", r.Name(), content(response), r.kind.product(), r.flag)
}

func (r *remote) truncated() error {
	return fmt.Errorf("the response of %s is truncated: try again", r.Name())
}

// content describes a response that is not JSON.
func content(response *http.Response) string {
	kind, _, _ := strings.Cut(response.Header.Get("Content-Type"), ";")
	switch kind {
	case "text/html":
		return "a web page"
	case "", "application/json":
		return "something else"
	}
	return kind
}

// location returns the target of a redirect that was not followed.
func location(response *http.Response) string {
	if to := response.Header.Get("Location"); to != "" {
		return " (to " + to + ")"
	}
	return ""
}

// probes are requests that only one kind of store responds to in this way. UIs respond
// to any path with their page, so the form of the body decides.
var probes = []struct {
	kind Kind
	path string
	is   func(body []byte) bool
}{
	{Jaeger, "/api/services", func(body []byte) bool {
		var services struct {
			Data json.RawMessage `json:"data"`
		}
		return json.Unmarshal(body, &services) == nil && services.Data != nil
	}},
	{Zipkin, "/api/v2/services", func(body []byte) bool {
		var services []string
		return json.Unmarshal(body, &services) == nil
	}},
	{Tempo, "/api/echo", func(body []byte) bool { return strings.TrimSpace(string(body)) == "echo" }},
}

// maxProbe is how much of a response to a probe is read: a list of services.
const maxProbe = 16 << 20

// detect asks which kind of store is at the URL.
func (r *remote) detect(ctx context.Context) (Kind, error) {
	var seen []string
	for _, probe := range probes {
		response, body, err := r.probe(ctx, probe.path)
		switch {
		case err != nil:
			return Auto, err
		case response.StatusCode == http.StatusOK && probe.is(body):
			return probe.kind, nil
		case response.StatusCode == http.StatusOK:
			seen = append(seen, fmt.Sprintf("%s: %s", probe.path, content(response)))
		default:
			seen = append(seen, fmt.Sprintf("%s: %s", probe.path, response.Status))
		}
	}
	return Auto, fmt.Errorf("%s is neither Jaeger nor Zipkin nor Tempo (%s); correct %s, or set --store to what it is", r.Name(), strings.Join(seen, ", "), r.flag)
}

// probe returns a response whose body was read.
func (r *remote) probe(ctx context.Context, path string) (*http.Response, []byte, error) {
	response, err := r.get(ctx, path)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxProbe))
	switch {
	case ctx.Err() != nil:
		return nil, nil, r.late(ctx)
	case err != nil:
		return nil, nil, r.truncated()
	}
	return response, body, nil
}
