package kubetest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// describe turns a pod's first container into one that can be started. Volumes become folders under root.
func describe(ctx context.Context, api kubernetes.Interface, pod *corev1.Pod, ip string, c Config) (container, error) {
	k := pod.Spec.Containers[0]
	if len(pod.Spec.Containers) > 1 || len(pod.Spec.InitContainers) > 0 || len(k.Command) > 0 {
		return container{}, fmt.Errorf("pod %s: only one container with its image's program is known here", pod.Name)
	}
	d := container{Image: c.Image, Hostname: pod.Name, Args: []string{c.Program}}
	if pod.Spec.Hostname != "" {
		d.Hostname = pod.Spec.Hostname
	}
	if s := pod.Spec.SecurityContext; s != nil && s.RunAsUser != nil {
		d.User = int(*s.RunAsUser)
	}
	values := map[string]string{}
	for _, e := range k.Env {
		value, err := valueOf(ctx, api, pod, ip, e)
		if err != nil {
			return container{}, err
		}
		values[e.Name] = expand(value, values)
		d.Env = append(d.Env, e.Name+"="+values[e.Name])
	}
	d.Env = append(d.Env, "PATH=/usr/bin", "HOSTNAME="+d.Hostname)
	for _, a := range k.Args {
		d.Args = append(d.Args, expand(a, values))
	}
	folder := filepath.Join(c.Root, "pods", string(pod.UID))
	folders := map[string]string{}
	for _, v := range pod.Spec.Volumes {
		path, err := layVolume(ctx, api, pod.Namespace, v, folder, c.Root)
		if err != nil {
			return container{}, fmt.Errorf("pod %s: volume %s: %w", pod.Name, v.Name, err)
		}
		if !strings.HasPrefix(path, c.Root) { // a folder of the node's keeps its owner
			folders[v.Name] = path
			continue
		}
		if err := os.Chown(path, d.User, d.User); err != nil {
			return container{}, err
		}
		folders[v.Name] = path
	}
	for _, m := range k.VolumeMounts {
		d.Mounts = append(d.Mounts, mount{Source: folders[m.Name], Target: m.MountPath, ReadOnly: m.ReadOnly})
	}
	d.Mounts = append(d.Mounts, mount{Source: filepath.Join(c.Root, resolvFile), Target: "/etc/resolv.conf", ReadOnly: true})
	d.Scratch = filepath.Join(folder, "root")
	return d, os.MkdirAll(d.Scratch, 0o755)
}

// valueOf is what a variable of a pod is.
func valueOf(ctx context.Context, api kubernetes.Interface, pod *corev1.Pod, ip string, e corev1.EnvVar) (string, error) {
	from := e.ValueFrom
	switch {
	case from == nil:
		return e.Value, nil
	case from.SecretKeyRef != nil:
		s, err := api.CoreV1().Secrets(pod.Namespace).Get(ctx, from.SecretKeyRef.Name, metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		return string(s.Data[from.SecretKeyRef.Key]), nil
	case from.FieldRef != nil:
		path := from.FieldRef.FieldPath
		field, rest, keyed := strings.Cut(path, "['")
		key := strings.TrimSuffix(rest, "']")
		switch {
		case path == "status.podIP":
			return ip, nil
		case path == "metadata.name":
			return pod.Name, nil
		case path == "metadata.namespace":
			return pod.Namespace, nil
		case keyed && field == "metadata.labels":
			return pod.Labels[key], nil
		case keyed && field == "metadata.annotations":
			return pod.Annotations[key], nil
		}
	}
	return "", fmt.Errorf("pod %s: where variable %s comes from is not known here", pod.Name, e.Name)
}

// expand replaces $(NAME) by what was said before.
func expand(text string, values map[string]string) string {
	for name, value := range values {
		text = strings.ReplaceAll(text, "$("+name+")", value)
	}
	return text
}

// layVolume makes a volume's folder.
func layVolume(ctx context.Context, api kubernetes.Interface, namespace string, v corev1.Volume, folder, root string) (string, error) {
	path := filepath.Join(folder, "volumes", v.Name)
	switch {
	case v.EmptyDir != nil:
	case v.PersistentVolumeClaim != nil:
		claim, err := api.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, v.PersistentVolumeClaim.ClaimName, metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		path = filepath.Join(root, "claims", namespace, claim.Name)
		if class := claim.Spec.StorageClassName; class != nil && *class == "" && claim.Status.Phase != corev1.ClaimBound {
			return "", fmt.Errorf("claim %s is not bound yet", claim.Name)
		}
		if claim.Spec.VolumeName != "" {
			volume, err := api.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
			if err != nil {
				return "", err
			}
			if volume.Spec.HostPath != nil {
				return volume.Spec.HostPath.Path, nil
			}
		}
	case v.ConfigMap != nil:
		m, err := api.CoreV1().ConfigMaps(namespace).Get(ctx, v.ConfigMap.Name, metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		for name, content := range m.Data {
			if err := os.MkdirAll(path, 0o755); err != nil {
				return "", err
			}
			if err := os.WriteFile(filepath.Join(path, name), []byte(content), 0o644); err != nil {
				return "", err
			}
		}
	default:
		return "", fmt.Errorf("its kind is not known here")
	}
	return path, os.MkdirAll(path, 0o777)
}
