package scheduler

import "fmt"

// ConfigError is one fault of a [Config]; [New] joins all of them. The caller
// corrects the field.
type ConfigError struct {
	Field string
	Value any
	Rule  string
}

func (e *ConfigError) Error() string {
	return fmt.Sprintf("%s: %v %s", e.Field, e.Value, e.Rule)
}
