// Module versions with which the Prometheus of the tests is built; see
// e2e/provision/lab.go. A module of its own: nothing of it is linked
// into layertrace.
module github.com/layertrace/layertrace/e2e/tools/prometheus

go 1.26.7

require github.com/prometheus/prometheus v0.316.0
