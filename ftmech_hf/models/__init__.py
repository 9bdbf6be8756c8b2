"""What is trained: stock architectures, compiled programs, and how models are loaded."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForTokenClassification

from ftmech_hf.models.compiled import CompiledConfig, CompiledModel

# Transformers' auto classes know compiled programs from here on. A bidirectional program is no causal LM; it is under
# that name too because this is what everything that loads a model here, and many tools elsewhere, ask for.
AutoConfig.register(CompiledConfig.model_type, CompiledConfig, exist_ok=True)
for auto in (AutoModel, AutoModelForCausalLM, AutoModelForTokenClassification):
    auto.register(CompiledConfig, CompiledModel, exist_ok=True)

__all__ = ["CompiledConfig", "CompiledModel"]
