// Module versions with which the container runtime of the cluster tests is
// built; see e2e/provision/kubernetes.go. A module of its own: nothing of it is
// linked into layertrace.
module github.com/layertrace/layertrace/e2e/tools/containerd

go 1.26.0

require github.com/containerd/containerd/v2 v2.2.0 // indirect
