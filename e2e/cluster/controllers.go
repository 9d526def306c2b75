// SPDX-License-Identifier: Apache-2.0

package cluster

// startControllerManager starts Kubernetes' own controllers, so that deleted
// namespaces and owners' objects go away, service accounts come with their
// namespaces, and services have endpoints. Nothing here waits for it: who needs
// what it makes waits for that.
func (c *Cluster) startControllerManager() error {
	path := c.file("controllers.kubeconfig")
	if _, err := c.writeKubeconfig(path, "https://"+serverAddress, c.keys.admin); err != nil {
		return err
	}
	_, err := c.run("kube-controller-manager", c.options.Tools.ControllerManager,
		"--kubeconfig="+path, "--leader-elect=false", "--bind-address=127.0.0.1",
		"--service-account-private-key-file="+c.file("serviceaccounts.key"),
		"--root-ca-file="+c.file("apiserver.crt"))
	return err
}
