// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

const (
	etcdURL     = "http://127.0.0.1:2379"
	etcdPeerURL = "http://127.0.0.1:2380"
	// startLimit is how long one program may take to be ready: a fresh machine
	// with two busy cores reads 150 MB of program first.
	startLimit = 3 * time.Minute
	pollEvery  = 50 * time.Millisecond
)

// startEtcd starts etcd, and returns when it says that it is healthy.
func (c *Cluster) startEtcd(ctx context.Context) error {
	etcd, err := c.Run(sandbox.Spec{Name: "etcd", Path: c.options.Tools.Etcd, Args: []string{
		"--data-dir=" + c.file("etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls=" + etcdURL, "--advertise-client-urls=" + etcdURL,
		"--listen-peer-urls=" + etcdPeerURL, "--initial-advertise-peer-urls=" + etcdPeerURL,
		"--initial-cluster=default=" + etcdPeerURL,
	}})
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{DialContext: c.Space.DialContext}}
	defer client.CloseIdleConnections()
	return AwaitReady(ctx, etcd, func(ctx context.Context) error {
		body, err := Get(ctx, client, etcdURL+"/health")
		if err == nil && !strings.Contains(body, `"health":"true"`) {
			err = fmt.Errorf("etcd says %s", body)
		}
		return err
	})
}

// Get returns what url answers with status 200; any other status is an error.
func Get(ctx context.Context, client *http.Client, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, response.Status, body)
	}
	return string(body), err
}
