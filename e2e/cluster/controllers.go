// SPDX-License-Identifier: Apache-2.0

package cluster

import "github.com/layertrace/layertrace/e2e/sandbox"

// startControllerManager starts Kubernetes' own controllers, so that deleted
// namespaces and owners' objects go away, service accounts come with their
// namespaces, and services have endpoints. Nothing here waits for it: who needs
// what it makes waits for that. The controllers that delete pods of nodes which
// do not answer are left out: no node here does, and its pods are a test's.
func (c *Cluster) startControllerManager() error {
	_, err := c.Run(sandbox.Spec{Name: "kube-controller-manager", Path: c.options.Tools.ControllerManager, Args: []string{
		"--kubeconfig=" + c.KubeconfigInside, "--leader-elect=false",
		"--controllers=*,-node-lifecycle-controller,-taint-eviction-controller,-pod-garbage-collector-controller", "--bind-address=127.0.0.1",
		"--service-account-private-key-file=" + c.file("serviceaccounts.key"),
		"--root-ca-file=" + c.file("apiserver.crt"),
	}})
	return err
}
