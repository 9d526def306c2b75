// Module versions of the Prometheus in the tests, built by e2e/provision/lab.go. A
// separate module: layertrace links nothing of it.
module github.com/layertrace/layertrace/e2e/tools/prometheus

go 1.26.7

require github.com/prometheus/prometheus v0.316.0
