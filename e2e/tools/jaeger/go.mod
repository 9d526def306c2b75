// Module versions with which the lab's Jaeger is built; see
// e2e/provision/lab.go. A module of its own: nothing of it is linked
// into layertrace.
module github.com/layertrace/layertrace/e2e/tools/jaeger

go 1.26.0

require github.com/jaegertracing/jaeger v1.76.0
