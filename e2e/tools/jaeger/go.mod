// Module versions of the lab's Jaeger, built by e2e/provision/lab.go. A separate
// module: layertrace links nothing of it.
module github.com/layertrace/layertrace/e2e/tools/jaeger

go 1.26.0

require github.com/jaegertracing/jaeger v1.76.0
