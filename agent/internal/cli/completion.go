// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"net"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/install"
	"github.com/layertrace/layertrace/agent/internal/tracestore"
	"github.com/layertrace/layertrace/agent/internal/watch"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// flagValues returns the values of flags with a few, beside those whose type lists them.
func flagValues() map[string][]string {
	var stores []string
	for _, kind := range tracestore.Kinds {
		stores = append(stores, string(kind))
	}
	return map[string][]string{
		"reorder": install.Reorders, "mtls-log": install.MTLSLogs, "tracer": install.Tracers, "store": stores,
		"format": {formatAuto, formatTable, formatJSON}, "context-format": tracecontext.PreferenceNames(),
		"output": {outputText, outputJSON}, "layer": watch.LayerNames(),
		"export": config.Exporters, "socket-cgroup": {config.SocketCgroupAuto, config.SocketCgroupNone}, "spans": {config.SpansInterfaces, config.SpansLayers},
	}
}

// completeValues makes the shells' completion offer the values of flags: those of a
// choice, interfaces, and files only where a file is meant.
func completeValues(root *cobra.Command) error {
	values := flagValues()
	var failed error
	for _, cmd := range root.Commands() {
		if cmd.Name() != "decode" && cmd.ValidArgsFunction == nil { // decode FILE
			cmd.ValidArgsFunction = cobra.NoFileCompletions
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if complete := completionOf(f, cmd.Name(), values); complete != nil && failed == nil {
				failed = cmd.RegisterFlagCompletionFunc(f.Name, complete)
			}
		})
	}
	return failed
}

// completionOf returns how the value of a command's flag is completed, nil: by files.
func completionOf(f *pflag.Flag, command string, values map[string][]string) cobra.CompletionFunc {
	kind, _ := pflag.UnquoteUsage(f)
	fixed, known := values[f.Name]
	switch choices := strings.Split(f.Value.Type(), "|"); {
	case f.Name == "mtls" && command == "install":
		return cobra.FixedCompletions(install.MTLSModes, cobra.ShellCompDirectiveNoFileComp)
	case f.Name == "reorder" && command == "try":
		return cobra.FixedCompletions(install.TrialReorders, cobra.ShellCompDirectiveNoFileComp)
	case f.Name == "vnic", f.Name == "pnic":
		return completeInterfaces
	case f.Name == "agent-setting":
		return completeSettings
	case f.Name == "context":
		return completeContexts
	case f.Name == "path": // of requests
		return cobra.NoFileCompletions
	case known && kind == "PATH": // else a path, once no value fits
		return cobra.FixedCompletions(fixed, cobra.ShellCompDirectiveDefault)
	case known:
		return cobra.FixedCompletions(fixed, cobra.ShellCompDirectiveNoFileComp)
	case len(choices) > 1:
		return cobra.FixedCompletions(choices, cobra.ShellCompDirectiveNoFileComp)
	case kind == "FILE", kind == "PATH":
		return nil
	}
	return cobra.NoFileCompletions
}

// completeSettings offers the agent's settings as NAME=, and then the values of a choice.
func completeSettings(_ *cobra.Command, _ []string, typed string) (offers []string, directive cobra.ShellCompDirective) {
	settings := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	config.Define(settings)
	directive = cobra.ShellCompDirectiveNoFileComp
	name, _, named := strings.Cut(typed, "=")
	if !named {
		settings.VisitAll(func(f *pflag.Flag) {
			if f.Name != "config" {
				offers = append(offers, f.Name+"=")
			}
		})
		return offers, directive | cobra.ShellCompDirectiveNoSpace
	}
	f := settings.Lookup(name)
	if f == nil {
		return nil, directive
	}
	values := flagValues()[name]
	if choices := strings.Split(f.Value.Type(), "|"); values == nil && len(choices) > 1 {
		values = choices
	}
	if f.Value.Type() == "bool" {
		values = []string{"true", "false"}
	}
	for _, value := range values {
		offers = append(offers, name+"="+value)
	}
	return offers, directive
}

// completeContexts offers the contexts of the kubeconfig.
func completeContexts(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	file := ""
	if f := cmd.Flags().Lookup("kubeconfig"); f != nil {
		file = f.Value.String()
	}
	names, err := install.Contexts(file)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeInterfaces offers the interfaces that are there, and kinds.
func completeInterfaces(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	names := []string{"kind:loopback", "kind:physical", "kind:veth"}
	interfaces, err := net.Interfaces()
	if err != nil {
		return names, cobra.ShellCompDirectiveNoFileComp
	}
	for _, i := range interfaces {
		names = append(names, i.Name)
	}
	slices.Sort(names)
	return names, cobra.ShellCompDirectiveNoFileComp
}
