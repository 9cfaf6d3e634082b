package main

import (
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
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
