"""Kernels and bytes of programs written by hand, in the form of XLA's text."""

import re

import pytest

from benchmarks.hlo import Program

# A step of a loop of 5: a fusion of 3 reads of slices, an in-place update, a convolution, a sum, and a copy.
LOOP = """HloModule jit_train_loop, is_scheduled=true

%fused_slice (param_0: f32[1000], param_1: f32[4,8]) -> bf16[4,8] {
  %param_0 = f32[1000]{0} parameter(0)
  %cast = bf16[1000]{0} convert(%param_0)
  %slice.1 = bf16[32]{0} slice(%cast), slice={[0:32]}
  %param_1 = f32[4,8]{1,0} parameter(1)
  %shape = bf16[4,8]{1,0} bitcast(%slice.1)
  %cast.1 = bf16[4,8]{1,0} convert(%param_1)
  ROOT %add.1 = bf16[4,8]{1,0} add(%shape, %cast.1)
}

%fused_update (param_0.1: f32[5], param_1.1: s32[], param_2: f32[]) -> f32[5] {
  %param_0.1 = f32[5]{0} parameter(0)
  %param_2 = f32[] parameter(2)
  %row = f32[1]{0} bitcast(%param_2)
  %param_1.1 = s32[] parameter(1)
  ROOT %update = f32[5]{0} dynamic-update-slice(%param_0.1, %row, %param_1.1)
}

%fused_sum (param_0.2: bf16[4,8]) -> (f32[8], pred[4,8]) {
  %param_0.2 = bf16[4,8]{1,0} parameter(0)
  %zero = f32[] constant(0)
  %sum = f32[8]{0} reduce(%param_0.2, %zero), dimensions={0}, to_apply=%add
  %mask = pred[4,8]{1,0} compare(%param_0.2, %param_0.2), direction=GT
  ROOT %both = (f32[8]{0}, pred[4,8]{1,0}) tuple(%sum, %mask)
}

%body (state: (s32[], f32[1000], f32[4,8], f32[5], f32[])) -> (s32[], f32[1000], f32[4,8], f32[5], f32[]) {
  %state = (s32[], f32[1000]{0}, f32[4,8]{1,0}, /*index=3*/f32[5]{0}, f32[]) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %vector = f32[1000]{0} get-tuple-element(%state), index=1
  %matrix = f32[4,8]{1,0} get-tuple-element(%state), index=2
  %rows = f32[5]{0} get-tuple-element(%state), index=3
  %loss = f32[] get-tuple-element(%state), index=4
  %a = bf16[4,8]{1,0} fusion(%vector, %matrix), kind=kLoop, calls=%fused_slice, metadata={op_name="jit(f)/net/add"}
  %conv = (bf16[4,8]{1,0}, u8[4096]{0}) custom-call(%a, %a), custom_call_target="__cudnn$convForward"
  %y = bf16[4,8]{1,0} get-tuple-element(%conv), index=0
  %total = (f32[8]{0}, pred[4,8]{1,0}) fusion(%y), kind=kInput, calls=%fused_sum
  %new = f32[5]{0} fusion(%rows, %i, %loss), kind=kLoop, calls=%fused_update
  %start = f32[8]{0} all-reduce-start(%loss), to_apply=%add
  %done = f32[8]{0} all-reduce-done(%start)
  %copied = f32[4,8]{0,1} copy(%matrix)
  ROOT %next = (s32[], f32[1000]{0}, f32[4,8]{1,0}, f32[5]{0}, f32[]) tuple(%i, %vector, %matrix, %new, %loss)
}

%less (state.1: (s32[], f32[1000])) -> pred[] {
  %state.1 = (s32[], f32[1000]{0}) parameter(0)
  ROOT %less = pred[] constant(true)
}

ENTRY %main (x: f32[1000]) -> f32[1000] {
  %x = f32[1000]{0} parameter(0)
  %loop = (s32[], f32[1000]{0}) while(%x), condition=%less, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %result = f32[1000]{0} copy(%x)
}
"""


def test_the_kernels_of_a_step_and_the_bytes_of_each():
  program = Program(LOOP)
  assert program.loop_body() == 'body'
  kernels = list(program.kernels('body'))
  assert [(kernel.kind, kernel.bytes) for kernel in kernels] == [
    ('elementwise', 32 * 4 + 32 * 4 + 32 * 2),  # 32 of the 1000 numbers, the matrix, and the result in bfloat16
    ('cudnn', 3 * 32 * 2),  # without the workspace
    ('reduction', 32 * 2 + 8 * 4 + 32),  # with the mask beside the sum
    ('copy', 0 + 4 + 4 + 4),  # the index, the row read, and the row written in place
    ('all-reduce', 4 + 32),
    ('copy', 2 * 32 * 4),
  ]
  assert kernels[0].scope == 'jit(f)/net/add'


def test_a_loop_counts_as_often_as_it_runs():
  program = Program(LOOP)
  assert len(list(program.kernels(program.entry))) == 5 * 6 + 1


def test_a_loop_of_an_unknown_number_of_steps_is_refused():
  text = re.sub(', backend_config=.*', '', LOOP)
  program = Program(text)
  with pytest.raises(ValueError, match='loop: a loop of an unknown number of steps'):
    list(program.kernels(program.entry))


def test_a_program_without_a_loop_is_a_step():
  text = LOOP.replace('while(', 'copy(')
  assert Program(text).loop_body() == 'main'
