// Package monitoring holds what watches a cluster from outside: alert rules for Prometheus (alerts.yaml) and a dashboard
// for Grafana (dashboard.json, to be imported). There is no code in it: its test starts a broker and holds every metric
// that the two files name against what /metrics prints.
package monitoring
