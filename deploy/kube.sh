#!/usr/bin/env bash
# Builds a control plane of Kubernetes under DIR/bin from Go's module proxy: etcd, kube-apiserver, kube-controller-manager, and
# lays the kinds of JobSet and of the Prometheus operator under DIR/kinds. The first time takes a quarter of an hour of two
# cores, afterwards Go's cache has it. For `make kube-check`.
#
#   deploy/kube.sh DIR
set -euo pipefail

dir=$(realpath -m "$1")
kubernetes=v1.37.2 # and its parts, as v0.37.2
etcd=v3.7.3
jobset=v0.12.0
operator=v0.90.1 # of Prometheus
parts=v0${kubernetes#v1}
mkdir -p "$dir"/{bin,kinds,kubernetes,etcd}

# module FIELD MODULE fetches a module and says something of it. It wants a folder with a go.mod that may change.
module() {
	local says
	says=$(go mod download -json "$2") || {
		echo "deploy/kube.sh: $2: $says" >&2
		return 1
	}
	sed -n "s/^\t\"$1\": \"\(.*\)\",\?$/\1/p" <<<"$says"
}

if [ "$(cat "$dir/etcd/version" 2>/dev/null)" != $etcd ]; then
	cd "$dir/etcd"
	rm -f go.mod go.sum
	printf 'package main\n\nimport (\n\t"os"\n\n\t"go.etcd.io/etcd/server/v3/etcdmain"\n)\n\nfunc main() { etcdmain.Main(os.Args) }\n' >main.go
	go mod init etcd >/dev/null 2>&1
	go get "go.etcd.io/etcd/server/v3@$etcd"
	go mod tidy
	go build -buildvcs=false -o "$dir/bin/etcd" .
	echo $etcd >version
fi

if [ "$(cat "$dir/kubernetes/version" 2>/dev/null)" != $kubernetes ]; then
	cd "$dir/kubernetes"
	rm -f go.sum
	echo 'module controlplane' >go.mod
	theirs=$(module GoMod "k8s.io/kubernetes@$kubernetes")
	{
		printf 'module controlplane\n\n%s\n\nrequire k8s.io/kubernetes %s\n\n' "$(grep '^go ' "$theirs")" $kubernetes
		# What lies beside Kubernetes in its repository has versions of its own elsewhere.
		sed -n "s,^[[:space:]]*\(replace \)\?\(k8s.io/[a-z0-9-]*\) => ./staging/.*,replace \2 => \2 $parts,p" "$theirs"
	} >go.mod
	printf 'package main\n\nimport (\n\t_ "k8s.io/kubernetes/cmd/kube-apiserver/app"\n\t_ "k8s.io/kubernetes/cmd/kube-controller-manager/app"\n)\n\nfunc main() {}\n' >main.go
	go mod tidy
	for program in kube-apiserver kube-controller-manager; do
		go build -o "$dir/bin/$program" -ldflags "-X k8s.io/component-base/version.gitVersion=$kubernetes" "k8s.io/kubernetes/cmd/$program"
	done
	echo $kubernetes >version
fi

if [ "$(cat "$dir/kinds/version" 2>/dev/null)" != "$jobset $operator" ]; then
	cd "$dir/kinds"
	rm -f -- *.yaml go.sum
	echo 'module kinds' >go.mod
	theirs=$(module Dir "sigs.k8s.io/jobset@$jobset")
	install -m 644 "$theirs"/config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml .
	theirs=$(module Dir "github.com/prometheus-operator/prometheus-operator@$operator")
	install -m 644 "$theirs"/example/prometheus-operator-crd/monitoring.coreos.com_{servicemonitors,podmonitors,prometheusrules}.yaml .
	echo "$jobset $operator" >version
fi
ls "$dir/bin" "$dir/kinds"
