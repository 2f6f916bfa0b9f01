package checkpoint

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"strings"
)

// decodeTorch reads a PyTorch checkpoint: a state dictionary alone, or the dictionary that training scripts write
// around it (epoch, model_arch, state_dict, best_acc1, optimizer). Errors match ErrFormat, except what r returns.
func decodeTorch(r io.ReaderAt, size int64) (*State, error) {
	var start [len(legacyStart)]byte
	if n, err := r.ReadAt(start[:], 0); err != nil && n < len(start) {
		return nil, shortRead(err)
	}
	open := openTorchZip
	if string(start[:]) == legacyStart {
		open = openTorchLegacy
	}
	file, err := open(r, size)
	if err != nil {
		return nil, err
	}
	root, ok := file.root.(*dict)
	if !ok {
		return nil, malformed("the file holds a %s, expected a dictionary of tensors or a checkpoint", kind(file.root))
	}
	states := root
	for _, key := range []string{"state_dict", "model_state_dict", "model"} {
		if d, ok := root.get(key).(*dict); ok {
			states = d
			break
		}
	}
	reader := &tensorReader{file, 4*size + 1<<20}
	s := &State{Meta: Meta{Source: "pytorch"}}
	names, err := s.takeModel(states, reader)
	if err != nil {
		return nil, err
	}
	if states != root {
		s.takeMeta(root, reader)
		if optimizer, ok := root.get("optimizer").(*dict); ok {
			if err := s.takeOptimizer(optimizer, names, reader); err != nil {
				return nil, err
			}
		}
	}
	sortByName(s.Optimizer)
	return s, nil
}

// takeModel reads a state dictionary and returns its names in the file's order, which is that of the modules. The
// prefix "module.", which a parallel wrapper adds to every name, is removed.
func (s *State) takeModel(states *dict, reader *tensorReader) ([]string, error) {
	names := make([]string, len(states.keys))
	prefixed := true
	for i, key := range states.keys {
		name, ok := key.(string)
		if _, tensor := states.values[i].(tensorRef); !ok || !tensor {
			return nil, malformed("entry %.100q of the state dictionary is a %s, expected a tensor", fmt.Sprint(key), kind(states.values[i]))
		}
		names[i] = name
		prefixed = prefixed && strings.HasPrefix(name, "module.")
	}
	if len(names) == 0 {
		return nil, malformed("the file holds no tensors")
	}
	for i, name := range names {
		if prefixed {
			names[i] = strings.TrimPrefix(name, "module.")
		}
		t, err := reader.read(names[i], states.values[i].(tensorRef))
		if err != nil {
			return nil, err
		}
		s.Model = append(s.Model, t)
	}
	sortByName(s.Model)
	return names, nil
}

func (s *State) takeMeta(root *dict, reader *tensorReader) {
	for _, key := range []string{"model_arch", "arch"} {
		if name, ok := root.get(key).(string); ok {
			s.Meta.Arch = name
			break
		}
	}
	s.Meta.Epoch = int(finite(root.get("epoch"), reader))
	s.Meta.BestTop1 = finite(root.get("best_acc1"), reader)
}

// finite returns a number, or a tensor of one element, as float64; 0 when v is neither or is not finite.
func finite(v any, reader *tensorReader) float64 {
	f := 0.0
	switch v := v.(type) {
	case int64:
		f = float64(v)
	case float64:
		f = v
	case tensorRef:
		if t, err := reader.read("", v); err == nil && t.Len() == 1 {
			f = t.at(0)
		}
	}
	if math.IsNaN(f) || math.IsInf(f, 0) || math.Abs(f) > 1<<53 {
		return 0
	}
	return f
}

// takeOptimizer names the state of torch.optim.SGD or AdamW after the parameters. The file numbers parameters in the
// order of the parameter groups; with one group that is the order of the modules, which the state dictionary has too.
// What cannot be named for certain is left out with a note; damage is an error.
func (s *State) takeOptimizer(optimizer *dict, names []string, reader *tensorReader) error {
	groups, _ := optimizer.get("param_groups").(*list)
	state, _ := optimizer.get("state").(*dict)
	if groups == nil || state == nil || len(groups.items) == 0 {
		s.OptimizerNote = "the optimizer entry has no state and param_groups"
		return nil
	}
	first, _ := groups.items[0].(*dict)
	if first == nil {
		return malformed("optimizer: a parameter group is a %s", kind(groups.items[0]))
	}
	s.Meta.LR = finite(first.get("lr"), reader)
	s.Meta.BaseLR = finite(first.get("initial_lr"), reader)
	s.Meta.Momentum = finite(first.get("momentum"), reader)
	s.Meta.WeightDecay = finite(first.get("weight_decay"), reader)

	ids, named, note := s.numbering(groups, names)
	if note != "" {
		s.OptimizerNote = note
		return nil
	}
	steps := int64(-1)
	for i, id := range ids {
		entry, _ := state.get(id).(*dict)
		if entry == nil {
			continue
		}
		param, _ := Find(s.Model, named[i])
		for _, key := range []string{"momentum_buffer", "exp_avg", "exp_avg_sq"} {
			ref, ok := entry.get(key).(tensorRef)
			if !ok {
				continue
			}
			if fmt.Sprint(ref.shape) != fmt.Sprint(param.Shape) {
				return malformed("optimizer: %s of parameter %d has shape %v, %s has %v", key, id, ref.shape, param.Name, param.Shape)
			}
			t, err := reader.read(strings.TrimSuffix(key, "_buffer")+"."+param.Name, ref)
			if err != nil {
				return err
			}
			s.Optimizer = append(s.Optimizer, t)
		}
		if v := entry.get("step"); v != nil {
			n := int64(finite(v, reader))
			if steps >= 0 && n != steps {
				s.Optimizer = nil
				s.OptimizerNote = "its parameters have taken different numbers of steps"
				return nil
			}
			steps = n
		}
	}
	if steps >= 0 {
		data := binary.LittleEndian.AppendUint64(nil, uint64(steps))
		s.Optimizer = append(s.Optimizer, Tensor{Name: "step", DType: I64, Shape: []int64{}, Data: data})
		s.Meta.Step = int(steps)
	}
	return nil
}

// numbering returns the optimizer's parameter numbers and the parameter's name of each, or a note saying why the names
// are not known.
func (s *State) numbering(groups *list, names []string) (ids []int64, named []string, note string) {
	for _, g := range groups.items {
		group, _ := g.(*dict)
		if group == nil {
			return nil, nil, "a parameter group is not a dictionary"
		}
		params, _ := group.get("params").(*list)
		if params == nil {
			return nil, nil, "a parameter group lists no parameters"
		}
		known, _ := group.get("param_names").(*list)
		if known == nil && len(groups.items) > 1 {
			return nil, nil, "it has several parameter groups without names"
		}
		for i, p := range params.items {
			id, ok := p.(int64)
			if !ok {
				return nil, nil, "a parameter group lists parameters that are not numbers"
			}
			ids = append(ids, id)
			if known != nil {
				if i >= len(known.items) {
					return nil, nil, "a parameter group has fewer names than parameters"
				}
				name, _ := known.items[i].(string)
				if _, ok := Find(s.Model, name); !ok {
					return nil, nil, fmt.Sprintf("it names the parameter %.100q, which the model lacks", name)
				}
				named = append(named, name)
			}
		}
	}
	if named == nil {
		for _, name := range names {
			if !isBuffer(name) {
				named = append(named, name)
			}
		}
	}
	if len(named) != len(ids) {
		return nil, nil, fmt.Sprintf("it has %d parameters, the model %d", len(ids), len(named))
	}
	once := map[any]bool{}
	for i := range ids {
		if once[ids[i]] || once[named[i]] {
			return nil, nil, "it lists a parameter twice"
		}
		once[ids[i]], once[named[i]] = true, true
	}
	return ids, named, ""
}

// Parameters counts the elements of a model that training updates: all but batch norm's running statistics.
func Parameters(model []Tensor) int {
	n := 0
	for _, t := range model {
		if !isBuffer(t.Name) {
			n += t.Len()
		}
	}
	return n
}

// isBuffer recognises the entries of a state dictionary that no optimizer updates: batch norm's running statistics.
func isBuffer(name string) bool {
	for _, suffix := range []string{"running_mean", "running_var", "num_batches_tracked"} {
		if name == suffix || strings.HasSuffix(name, "."+suffix) {
			return true
		}
	}
	return false
}
