// SPDX-License-Identifier: Apache-2.0

package podserver

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
)

func on(node, name string) *core.Pod {
	return &core.Pod{ObjectMeta: meta.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: core.PodSpec{NodeName: node}}
}

// serve returns a server with pods "a" on node1 and "b" on node2, and its URL.
func serve(t *testing.T) (*Server, string) {
	t.Helper()
	s, err := New()
	if err != nil {
		t.Fatal(err)
	}
	s.Put(on("node1", "a"))
	s.Put(on("node2", "b"))
	web := httptest.NewServer(s)
	t.Cleanup(web.Close)
	return s, web.URL + "/api/v1/pods?"
}

func get(t *testing.T, url string) *http.Response {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	return response
}

func TestListOfANode(t *testing.T) {
	_, url := serve(t)
	scheme := runtime.NewScheme()
	if err := core.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	for selector, want := range map[string]string{"spec.nodeName=node1,status.phase!=Failed": "a", "spec.nodeName!=node1,spec.nodeName!=,status.phase!=Failed": "b"} {
		body, err := io.ReadAll(get(t, url+"fieldSelector="+strings.ReplaceAll(selector, "=", "%3D")).Body)
		if err != nil {
			t.Fatal(err)
		}
		var list core.PodList
		if _, _, err := protobuf.NewSerializer(scheme, scheme).Decode(body, nil, &list); err != nil {
			t.Fatal(err)
		}
		if len(list.Items) != 1 || list.Items[0].Name != want || list.ResourceVersion != "3" {
			t.Errorf("%s: %d pods, version %s; want %s and 3", selector, len(list.Items), list.ResourceVersion, want)
		}
	}
}

// A watch has the changes of its node after its version, those that happen later too.
func TestWatch(t *testing.T) {
	s, url := serve(t)
	events := json.NewDecoder(get(t, url+"watch=true&resourceVersion=2&fieldSelector=spec.nodeName!%3Dnode1").Body)
	next := func(want string) {
		t.Helper()
		var e struct {
			Type   string
			Object struct {
				Kind     string
				Metadata struct{ Name, ResourceVersion string }
			}
		}
		if err := events.Decode(&e); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(e.Type, " ", e.Object.Kind, " ", e.Object.Metadata.Name, " ", e.Object.Metadata.ResourceVersion); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	next("ADDED Pod b 3")
	s.Delete("a") // of another node
	s.Put(on("node2", "b"))
	next("MODIFIED Pod b 5")
	s.Delete("b")
	next("DELETED Pod b 6")
	s.Delete("b") // nothing happens
	s.Put(on("node2", "c"))
	next("ADDED Pod c 7")
}

// A watch that is too far behind has to list again.
func TestWatchThatIsTooOld(t *testing.T) {
	s, url := serve(t)
	for range maxEvents {
		s.Put(on("node1", "a"))
	}
	if r := get(t, url+"watch=true&resourceVersion=2&fieldSelector=spec.nodeName%3Dnode1"); r.StatusCode != http.StatusGone {
		t.Errorf("status %s", r.Status)
	}
	if r := get(t, url+"watch=true&resourceVersion=3&fieldSelector=spec.nodeName%3Dnode1"); r.StatusCode != http.StatusOK {
		t.Errorf("status %s for a version that is known", r.Status)
	}
}
