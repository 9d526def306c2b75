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
		"", "1", "d", "00", "-", hex32, hex32 + "-", hex32 + "-" + hex16 + "-", ids + "-2", ids + "-D",
		ids + "-01", ids + "-1-", ids + "-1-" + hex16[:15], ids + "-1-" + hex16 + "-", ids + "-" + hex16,
		hex32[:31] + "-" + hex16, hex32[:17] + "-" + hex16, hex32 + "-" + hex16[:15], "g" + ids[1:],
		zero16 + zero16 + "-" + hex16, zero16 + "-" + hex16, hex32 + "-" + zero16,
	} {
		single(t, "b3", value, Context{}, None)
	}
	check(t, request("b3: 0", w3c), Options{}, Result{Outcome: Unsampled, Final: true})
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
	long := strings.Repeat("x", 97)
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
