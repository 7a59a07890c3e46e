"""Tensors of the tiny models: names and shapes that llama.cpp looks for, by block.

Shapes are numpy's: the last axis is contiguous, ggml writes them the other way round.
"""

from __future__ import annotations

from sim.llamacpp.geometry import AttentionGeometry

N_EMBD, N_FF, N_VOCAB, N_EXPERT = 128, 64, 64, 2
#: Mamba: width of the convolution, inner width, state width, rank of the time step.
D_CONV, D_INNER, D_STATE, DT_RANK = 4, 256, 8, 8
#: LFM2: width of the short convolution.
L_CACHE = 3

Shapes = dict[str, tuple[int, ...]]


def attention(geometry: AttentionGeometry, norms: bool = False) -> Shapes:
    """Projections of one attention layer; ``norms``: with those of Q and K."""
    head = {"attn_q_norm.weight": (geometry.head_dim,), "attn_k_norm.weight": (geometry.head_dim,)}
    return {
        "attn_norm.weight": (N_EMBD,),
        "attn_q.weight": (N_EMBD, N_EMBD),
        "attn_k.weight": (geometry.k_width, N_EMBD),
        "attn_v.weight": (geometry.v_width, N_EMBD),
        "attn_output.weight": (N_EMBD, N_EMBD),
    } | (head if norms else {})


NORM: Shapes = {"output_norm.weight": (N_EMBD,)}
OUTPUT: Shapes = {"output.weight": (N_VOCAB, N_EMBD)}
FFN: Shapes = {
    "ffn_norm.weight": (N_EMBD,),
    "ffn_gate.weight": (N_FF, N_EMBD),
    "ffn_up.weight": (N_FF, N_EMBD),
    "ffn_down.weight": (N_EMBD, N_FF),
}
POST_NORMS: Shapes = {
    "post_attention_norm.weight": (N_EMBD,),
    "post_ffw_norm.weight": (N_EMBD,),
}
EXPERTS: Shapes = {
    "ffn_norm.weight": (N_EMBD,),
    "ffn_gate_inp.weight": (N_EXPERT, N_EMBD),
    "ffn_gate_exps.weight": (N_EXPERT, N_FF, N_EMBD),
    "ffn_up_exps.weight": (N_EXPERT, N_FF, N_EMBD),
    "ffn_down_exps.weight": (N_EXPERT, N_EMBD, N_FF),
    "ffn_gate_shexp.weight": (N_FF, N_EMBD),
    "ffn_up_shexp.weight": (N_FF, N_EMBD),
    "ffn_down_shexp.weight": (N_EMBD, N_FF),
}
MAMBA: Shapes = {
    "attn_norm.weight": (N_EMBD,),
    "ssm_in.weight": (2 * D_INNER, N_EMBD),
    "ssm_conv1d.weight": (D_INNER, D_CONV),
    "ssm_conv1d.bias": (D_INNER,),
    "ssm_x.weight": (DT_RANK + 2 * D_STATE, D_INNER),
    "ssm_dt.weight": (D_INNER, DT_RANK),
    "ssm_dt.bias": (D_INNER,),
    "ssm_a": (D_INNER, D_STATE),
    "ssm_d": (D_INNER,),
    "ssm_out.weight": (N_EMBD, D_INNER),
}
MAMBA_NORMS: Shapes = {
    "ssm_dt_norm.weight": (DT_RANK,),
    "ssm_b_norm.weight": (D_STATE,),
    "ssm_c_norm.weight": (D_STATE,),
}
SHORTCONV: Shapes = {
    "attn_norm.weight": (N_EMBD,),
    "shortconv.conv.weight": (N_EMBD, L_CACHE),
    "shortconv.in_proj.weight": (3 * N_EMBD, N_EMBD),
    "shortconv.out_proj.weight": (N_EMBD, N_EMBD),
}
