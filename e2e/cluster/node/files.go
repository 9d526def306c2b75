// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"os"
	"path/filepath"
)

// writeFiles writes the configuration of containerd, the CNI plugins and the
// kubelet.
func (n *Node) writeFiles() error {
	for name, text := range map[string]string{
		"containerd.toml": fmt.Sprintf(containerdConfig, n.dir, Pause),
		"cni/10.conflist": fmt.Sprintf(cniConfig, n.options.PodCIDR),
		"kubelet.yaml":    fmt.Sprintf(kubeletConfig, n.dir),
	} {
		path := filepath.Join(n.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Without CAP_SYS_RESOURCE a container's OOM score cannot be lowered, hence
// restrict_oom_score_adj.
const containerdConfig = `version = 3
root = "%[1]s/containerd"
state = "%[1]s/run"
[grpc]
  address = "%[1]s/c.sock"
[plugins."io.containerd.cri.v1.images"]
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "docker.io/%[2]s"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "%[1]s/cni"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
`

const cniConfig = `{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [{
    "type": "bridge",
    "bridge": "cni0",
    "isGateway": true,
    "ipam": {
      "type": "host-local",
      "ranges": [[{"subnet": "%s"}]],
      "routes": [{"dst": "0.0.0.0/0"}]
    }
  }]
}
`

// Cgroups and eviction are left alone: the node is a guest on its machine.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://%[1]s/c.sock
authentication:
  anonymous: {enabled: true}
  webhook: {enabled: false}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
localStorageCapacityIsolation: false
resolvConf: ""
podLogsDir: %[1]s/pod-logs
volumePluginDir: %[1]s/volume-plugins
evictionHard:
  memory.available: "0%%"
  nodefs.available: "0%%"
  nodefs.inodesFree: "0%%"
  imagefs.available: "0%%"
`
