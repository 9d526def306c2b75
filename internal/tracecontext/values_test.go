// SPDX-License-Identifier: Apache-2.0

package tracecontext

import (
	"strings"
	"testing"
)

// single checks one value of a header with a whole context.
func single(t *testing.T, name, value string, want Context, outcome Outcome) {
	t.Helper()
	r := Result{Outcome: outcome, Context: want, Offset: 26, Final: true}
	if outcome == None {
		r.Offset, r.Malformed = 0, 1
	}
	check(t, request(name+": "+value), Options{}, r)
}

func TestW3C(t *testing.T) {
	denied := w3cContext
	denied.Sampling = Denied
	for value, want := range map[string]Context{
		"00-" + hex32 + "-" + hex16 + "-01":      w3cContext,
		"00-" + hex32 + "-" + hex16 + "-03":      w3cContext,
		"00-" + hex32 + "-" + hex16 + "-ff":      w3cContext,
		"00-" + hex32 + "-" + hex16 + "-00":      denied,
		"00-" + hex32 + "-" + hex16 + "-fe":      denied,
		"cc-" + hex32 + "-" + hex16 + "-01":      w3cContext,
		"cc-" + hex32 + "-" + hex16 + "-01-more": w3cContext,
		"01-" + hex32 + "-" + hex16 + "-01-":     w3cContext,
	} {
		outcome := Found
		if want.Sampling == Denied {
			outcome = Unsampled
		}
		single(t, "traceparent", value, want, outcome)
	}
	for _, value := range []string{
		"", "00", "0",
		"00-" + hex32 + "-" + hex16 + "-0",
		"00-" + hex32 + "-" + hex16 + "-011",
		"00-" + hex32 + "-" + hex16 + "-01-more",
		"cc-" + hex32 + "-" + hex16 + "-01.more",
		"ff-" + hex32 + "-" + hex16 + "-01",
		"0g-" + hex32 + "-" + hex16 + "-01",
		"00-" + strings.ToUpper(hex32) + "-" + hex16 + "-01",
		"00-" + hex32 + "-" + hex16 + "-0A",
		"00-" + hex32[:31] + "-" + hex16 + "-01",
		"00-" + hex32 + "-" + hex16[:15] + "-001",
		"00-" + zero16 + zero16 + "-" + hex16 + "-01",
		"00-" + hex32 + "-" + zero16 + "-01",
		"00_" + hex32 + "_" + hex16 + "_01",
		"00-" + hex32[:31] + "\x00-" + hex16 + "-01",
	} {
		single(t, "traceparent", value, Context{}, None)
	}
}

func TestB3(t *testing.T) {
	ids := hex32 + "-" + hex16
	for value, sampling := range map[string]Sampling{
		ids:                  Deferred,
		ids + "-1":           Accepted,
		ids + "-d":           Accepted,
		ids + "-0":           Denied,
		ids + "-1-" + hex16:  Accepted,
		ids + "-0-" + zero16: Denied,
		ids + "-" + hex16:    Deferred, // a parent without a state
		strings.ToUpper(ids): Deferred,
	} {
		outcome := Found
		if sampling == Denied {
			outcome = Unsampled
		}
		single(t, "b3", value, context(FormatB3, hex32, hex16, sampling), outcome)
	}
	single(t, "B3", hex16+"-"+hex16+"-1", context(FormatB3, hex16, hex16, Accepted), Found)
	for _, value := range []string{
		"", "2", "D", "00", "-", hex32, hex32 + "-", hex32 + "-" + hex16 + "-", ids + "-2", ids + "-D",
		ids + "-01", ids + "-1-", ids + "-1-" + hex16[:15], ids + "-1-" + hex16 + "-", ids + "-" + hex16[:15],
		ids + "-" + hex16 + "-1", ids + "-" + hex16 + "-" + hex16,
		hex32[:31] + "-" + hex16, hex32[:17] + "-" + hex16, hex32 + "-" + hex16[:15], "g" + ids[1:],
		zero16 + zero16 + "-" + hex16, zero16 + "-" + hex16, hex32 + "-" + zero16,
	} {
		single(t, "b3", value, Context{}, None)
	}
	check(t, request("b3: 0"), Options{}, Result{Outcome: Unsampled, Final: true})
	for _, decision := range []string{"1", "d"} {
		check(t, request("b3: "+decision), Options{}, Result{Outcome: None, Final: true})
	}
}

func TestJaeger(t *testing.T) {
	for value, want := range map[string]Context{
		hex32 + ":" + hex16 + ":0:1":             context(FormatJaeger, hex32, hex16, Accepted),
		hex32 + ":" + hex16 + "::01":             context(FormatJaeger, hex32, hex16, Accepted),
		hex32 + ":" + hex16 + ":" + hex16 + ":3": context(FormatJaeger, hex32, hex16, Accepted),
		hex32 + ":" + hex16 + ":0:0":             context(FormatJaeger, hex32, hex16, Denied),
		hex32 + ":" + hex16 + ":0:fe":            context(FormatJaeger, hex32, hex16, Denied),
		hex32 + ":" + hex16 + ":0:B":             context(FormatJaeger, hex32, hex16, Accepted),
		"ABC%3A1%3a0:1":                          context(FormatJaeger, "abc", "1", Accepted),
		"00001:01:0:1":                           context(FormatJaeger, "1", "1", Accepted),
	} {
		outcome := Found
		if want.Sampling == Denied {
			outcome = Unsampled
		}
		single(t, "uber-trace-id", value, want, outcome)
	}
	for _, value := range []string{
		"", ":::", "1:1:0", "1:1:0:", "1:1:0:1:", "1:1:0:001", ":1:0:1", "1::0:1", "g:1:0:1", "1:g:0:1", "1:1:g:1", "1:1:0:g",
		"0:1:0:1", "1:0:0:1", "1" + hex32 + ":1:0:1", "1:1" + hex16 + ":0:1", "1:1:0" + hex16 + ":1", "1%3:1:0:1", "1%3B1:0:1", "1-1-0-1",
	} {
		single(t, "uber-trace-id", value, Context{}, None)
	}
}

func TestSW8(t *testing.T) {
	// The hashes were calculated independently of this code, by the definition of
	// FNV-1a with 64 bits.
	want := context(FormatSkyWalking, "424f7b18da4924827cceac7288193b34", "088066915da4f1b3", Accepted)
	denied := want
	denied.Sampling = Denied
	single(t, "sw8", "1-dHJhY2U=-c2VnbWVudA==-3-c2Vydmlj-aW5z-L3g=-YTo4MA==", want, Found)
	single(t, "sw8", "1-dHJhY2U=-c2VnbWVudA==-3", want, Found)
	single(t, "sw8", "0-dHJhY2U=-c2VnbWVudA==-3-\x00 anything", denied, Unsampled)
	long := strings.Repeat("x", 257)
	for _, value := range []string{
		"", "1", "1-dHI=-c2U=", "1-dHI=-c2U=-", "2-dHI=-c2U=-3", "-dHI=-c2U=-3", "10-dHI=-c2U=-3", "1--c2U=-3", "1-dHI=--3",
		"1-d.I=-c2U=-3", "1-dHI=-c U=-3", "1-dHI=-c2U=-x", "1-dHI=-c2U=-123456789", "1-" + long + "-c2U=-3", "1-dHI=-" + long + "-3",
	} {
		single(t, "sw8", value, Context{}, None)
	}
	r := Parse([]byte(request("sw8: 1-"+long[1:]+"-"+long[1:]+"-12345678")), Options{})
	if r.Outcome != Found || r.Context.TraceID.IsZero() {
		t.Errorf("longest IDs: %+v", r)
	}
}

func TestXRay(t *testing.T) {
	const root, parent = "Root=1-4bf92f35-77b34da6a3ce929d0e0e4736", "Parent=00f067aa0ba902b7"
	for value, sampling := range map[string]Sampling{
		root + ";" + parent + ";Sampled=1":   Accepted,
		"Sampled=0; " + parent + "; " + root: Denied,
		root + ";" + parent:                  Deferred,
		root + ";" + parent + ";Sampled=?":   Deferred,
		root + ";" + parent + ";Sampled=":    Deferred,
		"Self=1-67891234-12456789abcdef012345678;" + root + ";" + parent + ";Lineage=a:1|b:2;Sampled=1": Accepted,
		strings.ToUpper(root[7:15]) + ";" + root + ";" + parent:                                         Deferred,
		root + ";" + parent + ";Sampled=1;Sampled=0;Root=x;Parent=":                                     Accepted,
		strings.Repeat(";", 14) + root + ";" + parent:                                                   Deferred,
	} {
		outcome := Found
		if sampling == Denied {
			outcome = Unsampled
		}
		single(t, "X-Amzn-Trace-Id", value, context(FormatXRay, hex32, hex16, sampling), outcome)
	}
	for _, value := range []string{
		"Root=2-4bf92f35-77b34da6a3ce929d0e0e4736;" + parent, "Root=1-4bf92f35-77b34da6a3ce929d0e0e473;" + parent,
		"Root=1-4bf92f35-77b34da6a3ce929d0e0e47366;" + parent, "Root=1-4bf92f3577b34da6a3ce929d0e0e4736;" + parent,
		"Root=1-4bf92f35-g7b34da6a3ce929d0e0e4736;" + parent, "Root=1-00000000-000000000000000000000000;" + parent,
		root + ";Parent=00f067aa0ba902b", root + ";Parent=" + zero16, root + ";" + parent + ";Sampled=2", root + ";" + parent + ";Sampled=01",
		"Root=;" + parent, root + ";Parent=", strings.Repeat(";", 15) + root + ";" + parent,
	} {
		single(t, "x-amzn-trace-id", value, Context{}, None)
	}
	for _, value := range []string{root, root + ";Sampled=1", parent, "Self=1-67891234-12456789abcdef012345678", "", "root=1", "  " + root + ";  " + parent} {
		check(t, request("x-amzn-trace-id: "+value), Options{}, Result{Outcome: None, Final: true})
	}
}

func TestGCP(t *testing.T) {
	const trace = hex32
	for value, sampling := range map[string]Sampling{
		trace + "/67667974448284343;o=1":                  Accepted,
		trace + "/67667974448284343;o=3":                  Accepted,
		trace + "/67667974448284343;o=0":                  Denied,
		trace + "/00067667974448284343":                   Deferred,
		strings.ToUpper(trace) + "/67667974448284343;o=1": Accepted,
	} {
		outcome := Found
		if sampling == Denied {
			outcome = Unsampled
		}
		single(t, "X-Cloud-Trace-Context", value, context(FormatGCP, hex32, hex16, sampling), outcome)
	}
	for _, value := range []string{
		"", trace[:31] + "/1;o=1", trace + "0/1;o=1", "g" + trace[1:] + "/1", zero16 + zero16 + "/1", trace + "/", trace + "/;o=1", trace + "/x;o=1",
		trace + "/18446744073709551616;o=1", trace + "/000000000000000000001", trace + "/1;o=", trace + "/1;o=10", trace + "/1;o=x", trace + "/1;", trace + "/1;p=1",
		trace + "/1;o=1;", trace + "/1/2",
	} {
		single(t, "x-cloud-trace-context", value, Context{}, None)
	}
	for _, value := range []string{trace, trace + ";o=1", trace + "/0;o=1"} {
		check(t, request("x-cloud-trace-context: "+value), Options{}, Result{Outcome: None, Final: true})
	}
}
