// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// errRefused says that Jaeger understood and did not want to.
var errRefused = errors.New("refused")

// jaegerAnswer is what Jaeger's query API answers with, errors included.
type jaegerAnswer struct {
	Data   []jaegerTrace `json:"data"`
	Errors []struct {
		Code int    `json:"code"`
		Msg  string `json:"msg"`
	} `json:"errors"`
}

// get asks for traces.
func (j *jaeger) get(ctx context.Context, path string) ([]Trace, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, j.base+path, nil)
	if err != nil {
		return nil, fmt.Errorf("ask Jaeger: %w; correct --jaeger", err)
	}
	request.Header.Set("Accept", "application/json")
	response, err := j.client.Do(request)
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s did not answer in time: %w", j.Name(), ctx.Err())
	case err != nil:
		return nil, fmt.Errorf("%s cannot be reached: %w; say with --jaeger where its UI is, or read a file with --file", j.Name(), errors.Unwrap(err))
	}
	defer response.Body.Close()
	return j.read(ctx, response)
}

// read returns the traces in an answer. Only JSON in Jaeger's form says that it
// is Jaeger that knows no such trace: any web server answers with 404.
func (j *jaeger) read(ctx context.Context, response *http.Response) ([]Trace, error) {
	var answer jaegerAnswer
	lines := json.NewDecoder(response.Body)
	lines.UseNumber()
	err := lines.Decode(&answer)
	isJaeger := err == nil && (answer.Data != nil || len(answer.Errors) > 0)
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s did not answer in time: %w", j.Name(), ctx.Err())
	case isJaeger && response.StatusCode == http.StatusNotFound:
		return nil, nil
	case isJaeger && response.StatusCode != http.StatusOK && len(answer.Errors) > 0:
		return nil, fmt.Errorf("%s %w: %s (%s)", j.Name(), errRefused, answer.Errors[0].Msg, response.Status)
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s answers %s%s: is this the address of its UI? Correct --jaeger", j.Name(), response.Status, location(response))
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("the answer of %s is cut off: try again", j.Name())
	case !isJaeger && err == nil:
		return nil, nil // {"data":null}: a search without a result
	case err != nil:
		return nil, fmt.Errorf("%s does not answer with traces, but with %s: is this the address of its UI? Correct --jaeger", j.Name(), content(response))
	}
	traces := make([]Trace, 0, len(answer.Data))
	for i := range answer.Data {
		id, records, err := answer.Data[i].read()
		if err != nil {
			return nil, fmt.Errorf("read what %s answers: %w", j.Name(), err)
		}
		traces = append(traces, assemble(id, records))
	}
	return traces, nil
}

// content names what was sent instead of JSON.
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

// location says where a redirect leads that was not followed.
func location(response *http.Response) string {
	if to := response.Header.Get("Location"); to != "" {
		return " (to " + to + ")"
	}
	return ""
}
