#!/usr/bin/env bash
# Copies of checkpoints against a real server that speaks S3, from the store's own suite to the words of the command line: against
# the one that S3_ENDPOINT=http://HOST:PORT names, whose access key is "key" and whose secret is "very-secret", or against
# versitygw, which this builds into DIR and runs while the tests last.
#
#   deploy/s3check.sh DIR
set -euo pipefail
dir=$1
port=$((20000 + RANDOM % 20000))

if [ -z "${S3_ENDPOINT:-}" ]; then
	[ -x "$dir/versitygw" ] || GOBIN=$(realpath -m "$dir") GOFLAGS= go install github.com/versity/versitygw/cmd/versitygw@v1.8.0
	shelf=$(mktemp -d)
	mkdir "$shelf/buckets" "$shelf/attributes" # these beside the files: not every temporary folder has extended ones
	(cd "$shelf" && go run "$(go env GOROOT)/src/crypto/tls/generate_cert.go" --host 127.0.0.1 --ca 2>"$shelf/log")
	# With TLS, as S3 is used: without, this version refuses the checksums that follow signed pieces.
	"$dir/versitygw" --access key --secret very-secret --port 127.0.0.1:$port --cert "$shelf/cert.pem" --key "$shelf/key.pem" \
		posix --sidecar "$shelf/attributes" "$shelf/buckets" >"$shelf/log" 2>&1 &
	trap 'kill %1; wait; rm -rf "$shelf"' EXIT
	export S3_ENDPOINT=https://127.0.0.1:$port SSL_CERT_FILE=$shelf/cert.pem
	for _ in $(seq 100); do
		(exec 3<>/dev/tcp/127.0.0.1/$port) 2>/dev/null && break
		kill -0 %1 2>/dev/null || { cat "$shelf/log" >&2; exit 1; }
		sleep 0.1
	done
fi
go test -count=1 -v -run '^TestServer$' ./checkpoint/s3
go test -count=1 -v -run '^TestARunGoesOnFromABucket$' ./cmd
