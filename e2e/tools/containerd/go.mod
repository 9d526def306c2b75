// Module versions of the container runtime in the cluster tests, built by
// e2e/provision/kubernetes.go. A separate module: layertrace links nothing of it.
module github.com/layertrace/layertrace/e2e/tools/containerd

go 1.26.0

require github.com/containerd/containerd/v2 v2.2.0 // indirect
