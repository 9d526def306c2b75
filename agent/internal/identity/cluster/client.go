// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

// Load reads how to reach the API server: from a kubeconfig file, or without
// one from what a pod finds in its container.
func Load(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		config, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("--kubernetes: %w; outside of a pod name a file with --kubeconfig", err)
		}
		return config, nil
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("--kubeconfig %s: %w", kubeconfig, err)
	}
	return config, nil
}

// newClient returns a client that knows core/v1 and nothing else: the clientset
// would bring the types of all API groups into the binary. It speaks protobuf,
// which is a third of the JSON.
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
		return nil, fmt.Errorf("make a client of the API server: %w", err)
	}
	return client, nil
}

// read asks for a list and reads it as it comes.
func read(ctx context.Context, request *rest.Request) (*records, error) {
	body, err := request.SetHeader("Accept", runtime.ContentTypeProtobuf).Stream(ctx)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return readList(body)
}

// pods lists and watches the pods that a field selector matches, and tells how
// each request went.
func pods(client rest.Interface, selector string, outcome func(error)) cache.ListerWatcher {
	request := func(o meta.ListOptions) *rest.Request {
		o.FieldSelector = selector
		return client.Get().Resource("pods").VersionedParams(&o, meta.ParameterCodec)
	}
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o meta.ListOptions) (runtime.Object, error) {
			o.Limit, o.Continue = 0, "" // in one piece; see readList
			list, err := read(ctx, request(o))
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
