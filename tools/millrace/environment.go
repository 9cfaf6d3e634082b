package main

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"millrace/broker/config"
)

const environmentPrefix = "MILLRACE_"

// environmentName is the variable of a flag: --kafka-port is MILLRACE_KAFKA_PORT.
func environmentName(flag string) string {
	return environmentPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// annotationEnvironment marks the flags that have a variable.
const annotationEnvironment = "millrace_environment"

// withEnvironment gives every flag of fs its MILLRACE_* variable and says so in its help.
func withEnvironment(fs *pflag.FlagSet) *pflag.FlagSet {
	fs.VisitAll(func(f *pflag.Flag) {
		name := environmentName(f.Name)
		f.Usage += " [$" + name + "]"
		if f.Annotations == nil {
			f.Annotations = map[string][]string{}
		}
		f.Annotations[annotationEnvironment] = []string{name}
	})
	return fs
}

// setFromEnvironment fills the flags of cmd that the command line did not set. A flag beats its variable,
// a variable beats the configuration file, the file beats the default.
func setFromEnvironment(cmd *cobra.Command) error {
	var err error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		name := f.Annotations[annotationEnvironment]
		if err != nil || f.Changed || len(name) == 0 {
			return
		}
		value, ok := os.LookupEnv(name[0])
		if !ok || value == "" {
			return
		}
		if setErr := cmd.Flags().Set(f.Name, value); setErr != nil {
			err = usagef("%s=%q: %w", name[0], value, setErr)
			if strings.Contains(value, "://") {
				// Kubernetes sets <SERVICE>_PORT=tcp://... in every container of the namespace.
				err = usagef("%s=%q is not a value for --%s: is it Kubernetes' variable for a service named like it? "+
					"Set enableServiceLinks: false in the pod", name[0], value, f.Name)
			}
		}
	})
	return err
}

// serviceLink matches what Kubernetes sets in every container of a namespace for a service named millrace, or
// millrace-something. The bare <SERVICE>_PORT is told by its value, as somebody may mean --kafka-port by it.
var serviceLink = regexp.MustCompile(`^\w+((_SERVICE_HOST|_SERVICE_PORT(_[A-Z0-9_]+)?|_PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)=|_PORT=[a-z]+://)`)

// unknownVariables says of each MILLRACE_* variable that no command below root has that it does nothing, and what
// may be meant. It is not an error: the prefix is not ours alone, others name things after us too.
func unknownVariables(root *cobra.Command, environment []string) (warnings []string) {
	flags := map[string]string{} // by variable
	var collect func(*cobra.Command)
	collect = func(cmd *cobra.Command) {
		for _, fs := range []*pflag.FlagSet{cmd.Flags(), cmd.PersistentFlags()} {
			fs.VisitAll(func(f *pflag.Flag) {
				for _, name := range f.Annotations[annotationEnvironment] {
					flags[name] = f.Name
				}
			})
		}
		for _, c := range cmd.Commands() {
			collect(c)
		}
	}
	collect(root)
	names := slices.Sorted(maps.Values(flags))
	for _, variable := range slices.Sorted(slices.Values(environment)) {
		name, value, _ := strings.Cut(variable, "=")
		flag, ours := strings.CutPrefix(name, environmentPrefix)
		if !ours || value == "" || flags[name] != "" || serviceLink.MatchString(variable) {
			continue
		}
		w := fmt.Sprintf("environment variable %s is not a setting and does nothing", name)
		if near := config.Nearest(strings.ReplaceAll(flag, "_", "-"), names); near != "" {
			w += fmt.Sprintf("; did you mean %s?", environmentName(near))
		}
		warnings = append(warnings, w)
	}
	return warnings
}
