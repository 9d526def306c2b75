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

// pageSize bounds what a list from a server that cannot stream it takes at once.
const pageSize = 500

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

// pods lists and watches the pods that a field selector matches, and tells how
// each request went.
func pods(client rest.Interface, selector string, outcome func(error)) cache.ListerWatcher {
	request := func(o meta.ListOptions) *rest.Request {
		o.FieldSelector = selector
		return client.Get().Resource("pods").VersionedParams(&o, meta.ParameterCodec)
	}
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o meta.ListOptions) (runtime.Object, error) {
			list := &core.PodList{}
			err := request(o).Do(ctx).Into(list)
			outcome(err)
			if err != nil {
				return nil, err
			}
			return list, trimAll(list)
		},
		WatchFuncWithContext: func(ctx context.Context, o meta.ListOptions) (watch.Interface, error) {
			o.Watch = true
			w, err := request(o).Watch(ctx)
			outcome(err)
			return w, err
		},
	}
}

// trimAll trims a page, before the next one comes.
func trimAll(list *core.PodList) error {
	for i := range list.Items {
		trimmed, err := trim(&list.Items[i])
		if err != nil {
			return err
		}
		list.Items[i] = *trimmed.(*core.Pod)
	}
	return nil
}
