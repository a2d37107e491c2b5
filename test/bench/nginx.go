package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"

	"github.com/leasehold/leasehold/test/internal/cluster"
)

// nginxConfig is nginx as one would set it up before an MCP server: one process
// for each CPU, connections to the upstream that stay, streams passed on at
// once. The user matters only when the benchmark runs as root.
const nginxConfig = `daemon off;
user root;
worker_processes auto;
pid %[1]s/nginx.pid;
error_log /dev/stdout notice;
events { worker_connections 4096; }
http {
  access_log off;
  client_body_temp_path %[1]s/body;
  proxy_temp_path %[1]s/proxy;
  fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi;
  scgi_temp_path %[1]s/scgi;
  keepalive_requests 1000000000;
  tcp_nodelay on;
  upstream mcp {
    server %[3]s;
    keepalive 256;
    keepalive_requests 1000000000;
  }
  server {
    listen %[2]s;
    client_max_body_size 4m;
    location / {
      proxy_pass http://mcp;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_buffering off;
      proxy_buffer_size 32k;
      proxy_buffers 8 32k;
      proxy_read_timeout 1h;
    }
  }
}
`

// nginxReady is the line with which nginx says that it serves.
var nginxReady = regexp.MustCompile(`start worker process \d`)

// startNginx starts nginx and returns its address; an empty one if it is not
// installed.
func (w *world) startNginx(ctx context.Context, upstream string) (string, error) {
	path, err := exec.LookPath("nginx")
	if err != nil {
		return "", nil
	}
	dir := filepath.Join(w.dir, "nginx")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	port, err := cluster.FreePort()
	if err != nil {
		return "", err
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	config := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, nginxConfig, dir, address, upstream), 0o644); err != nil {
		return "", err
	}
	p, err := cluster.Run(ctx, w.dir, cluster.Command{
		Name: pathNginx, Path: path, Args: []string{"-p", dir, "-c", config}, Ready: nginxReady,
	})
	if err != nil {
		return "", err
	}
	w.children = append(w.children, p)
	w.gateways[pathNginx] = []*cluster.Process{p}
	return address, nil
}
