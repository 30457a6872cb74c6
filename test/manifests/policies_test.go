package manifests

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"evenkeel.io/controlplane/internal/kubetest"
	"evenkeel.io/controlplane/internal/source/dir"
)

// verdicts are what a directory and an API server say of the same policy; nil is yes.
type verdicts struct {
	file, server error
	fields       []string // that the directory finds fault with
}

func (v verdicts) differ() bool { return (v.file == nil) != (v.server == nil) }

func (v verdicts) String() string {
	return fmt.Sprintf("the directory says:\n%v\nthe API server says:\n%v", v.file, v.server)
}

// judge asks both. The API server stores nothing.
func judge(t *testing.T, client *kubernetes.Clientset, namespace string, policy []byte) (v verdicts) {
	t.Helper()
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "policy.yaml"), policy, 0o644); err != nil {
		t.Fatal(err)
	}
	store, err := dir.Load(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range store.Problems {
		v.fields = append(v.fields, p.Field)
		v.file = errors.Join(v.file, fmt.Errorf("%s: %s", p.Field, p.Message))
	}
	resource := "balancepolicies"
	if bytes.Contains(policy, []byte("kind: LimitPolicy")) {
		resource = "limitpolicies"
	}
	v.server = client.RESTClient().Post().
		AbsPath("apis", "evenkeel.io", "v1alpha1", "namespaces", namespace, resource).
		Param("dryRun", metav1.DryRunAll).Param("fieldValidation", metav1.FieldValidationStrict).
		SetHeader("Content-Type", "application/yaml").Body(policy).
		Do(t.Context()).Error()
	if v.server != nil && !apierrors.IsInvalid(v.server) && !apierrors.IsBadRequest(v.server) {
		t.Fatalf("the API server has other worries: %v", v.server)
	}
	return v
}

// beyondServer are the files of which only a directory knows that they are bad (TestFilesKnowMore).
var beyondServer = regexp.MustCompile(`limit-(cel-(attribute|concatenation|macro|syntax|type)|key-cel|values-(ambiguous|match))\.bad\.yaml$`)

// TestFilesHaveTheSameVerdict: what a directory refuses of the policies in our repository the API
// server refuses too, in the same fields, and what the one takes the other takes.
func TestFilesHaveTheSameVerdict(t *testing.T) {
	server := kubetest.Shared(t)
	client := clientFor(t, server)
	for _, name := range []string{"shop", "demo"} {
		if err := server.Apply(t.Context(), "", "{apiVersion: v1, kind: Namespace, metadata: {name: "+name+"}}"); err != nil {
			t.Fatal(err)
		}
	}
	var refused, taken int
	for _, pattern := range []string{"../../internal/source/dir/testdata/*/*.y*ml", "../../examples/*/*.yaml", "../../examples/*/config/*.yaml"} {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for document := range bytes.SplitSeq(content, []byte("\n---\n")) {
				if !ofOurs.Match(document) {
					continue
				}
				v := judge(t, client, namespaceOf(document), document)
				switch beyond := beyondServer.MatchString(file); {
				case beyond && (v.file == nil || v.server != nil):
					t.Errorf("%s: only a directory should refuse it\n%v", file, v)
				case beyond:
					continue
				case v.differ():
					t.Errorf("%s\n%v", file, v)
				}
				if v.file == nil {
					taken++
					continue
				}
				refused++
				for _, field := range v.fields {
					if v.server != nil && !speaksOf(v.server.Error(), field) && !strings.Contains(v.server.Error(), "unsupported value: NaN") {
						t.Errorf("%s: the API server has no word on %s\n%v", file, field, v)
					}
				}
			}
		}
	}
	if refused < 50 || taken < 8 {
		t.Errorf("%d refused and %d taken: the files have moved", refused, taken)
	}
}

// speaksOf tells whether the API server's message is about the field or one that it stands in: it names a whole
// map or list where one of its members is at fault.
func speaksOf(message, field string) bool {
	if strings.Contains(message, mapKey.ReplaceAllString(field, ".$1")) {
		return true
	}
	for field != "spec" && field != "" {
		if strings.Contains(message, field+":") {
			return true
		}
		field = field[:max(0, strings.LastIndexAny(field, ".["))]
	}
	return false
}

var (
	namespace = regexp.MustCompile(`namespace: ([a-z]+)`)
	mapKey    = regexp.MustCompile(`\[([^\]]*[^\]0-9][^\]]*)\]`)
	ofOurs    = regexp.MustCompile(`kind: (Balance|Limit)Policy\b`)
)

func namespaceOf(document []byte) string {
	if match := namespace.FindSubmatch(document); match != nil {
		return string(match[1])
	}
	return metav1.NamespaceDefault
}

// bounds are values of one field, on both sides of every bound. $ stands for the value.
type bounds struct {
	spec   string
	values []string
}

// judgeFields asks both about every value, in the policy that document makes of a spec.
func judgeFields(t *testing.T, fields []bounds, document func(spec string) string) {
	client := clientFor(t, kubetest.Shared(t))
	for _, field := range fields {
		t.Run(field.spec, func(t *testing.T) {
			refused := 0
			for _, value := range field.values {
				v := judge(t, client, metav1.NamespaceDefault, []byte(document(strings.ReplaceAll(field.spec, "$", value))))
				if v.server != nil {
					refused++
				}
				if v.differ() {
					t.Errorf("%.100s\n%v", value, v)
				}
			}
			if refused == 0 || refused == len(field.values) {
				t.Errorf("%d of %d values are refused: no bound is tried", refused, len(field.values))
			}
		})
	}
}
