package main

import "strings"

// excuses are the families, by the beginning of their names, that need not be as etcd's, each with what may differ and why.
var excuses = []struct {
	prefix string
	about  []about
	why    string
}{
	{"go_", []about{absent, still, amount}, "Go's runtime"},
	{"promhttp_", []about{absent, amount}, "Go's HTTP handler"},
	{"process_", []about{still, amount}, "what the process needs is its own"},
	{"etcd_server_go_version", []about{absent}, "another toolchain is another label"},
	{"etcd_debugging_disk_backend_commit_", []about{still, amount}, "a checkpoint neither rebalances nor spills"},
	{"etcd_disk_backend_commit_duration_seconds", []about{amount}, "checkpoints are rarer than etcd's commits"},
	{"etcd_disk_wal_", []about{amount}, "one write an append, with the commit index in the next"},
	{"etcd_debugging_mvcc_index_compaction_", []about{still}, "the index is swept in the same slices as the rest"},
	{"etcd_debugging_server_watch_send_loop_", []about{still}, "an answer is encoded once for many watchers, in no loop of its own"},
	{"etcd_mvcc_db_open_read_transactions", []about{still, amount}, "those that are open at the moment at which it is asked"},
	{"etcd_mvcc_db_total_size_in_bytes", []about{still}, "the file grows by other steps"},
	{"etcd_network_client_grpc_", []about{amount}, "ids and terms have other lengths, watch answers other cuts"},
	{"etcd_server_request_duration_seconds", []about{absent, amount}, "not for what the member proposes by itself"},
}

func excuse(name string, what about) string {
	for _, e := range excuses {
		if !strings.HasPrefix(name, e.prefix) {
			continue
		}
		for _, about := range e.about {
			if about == what {
				return e.why
			}
		}
	}
	return ""
}
