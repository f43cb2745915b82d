#!/bin/sh
# weights.sh - `bmvp predict` with weights that MONAI has trained and that say nothing of themselves: MONAI's label map comes out
# (tests/fixtures/monai), what is assumed is printed, and what does not fit is refused by file and tensor. Then the other networks under
# their authors' names, and `bmvp finetune --init` with self-supervised weights.
# Environment: BMVP, the program (default build/bmvp); build/test_weights writes the other networks' files.
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/support/check.sh
. tests/support/check.sh
program=${BMVP:-build/bmvp}
case $program in /*) ;; *) program=$(pwd)/$program ;; esac
fix=$(pwd)/tests/fixtures/monai writer=$(pwd)/build/test_weights
cd "$T" || exit 1

# predict FILE OPTION...
predict() { file=$1; shift; "$program" predict --checkpoint "$file" --data "$fix/dataset.json" --threads 1 "$@"; }
# as MONAI's program had it
told() { file=$1; shift; predict "$file" --network unetr --set num_heads=3 --labels phantom --outputs TC,WT,ET --box whole --intensity zscore "$@"; }
# dice DIR: the smallest Dice of a region with MONAI's map
dice()
{
    "$program" evaluate --data "$fix/dataset.json" --predictions "$1" --no-distances --threads 1 >"$out" 2>&1
    sed -n 's/^[WTE][TC] *\([0-9.]*\) .*/\1/p' "$out" | sort -n | head -n 1
}

expect 0 "UNETR, 2 channels to 3 outputs|feature_size 2|hidden_size 6|channels 1 t1, 2 flair|outputs  1 TC, 2 WT, 3 ET (regions|1 cases, 0 left" \
    told "$fix/unetr.pt" --modalities t1,flair --out maps
check "what is assumed has its option's name" grep -q -- "--set img_size=32.*--spacing 1.*--axes RAS.*--window 32,32,32" "$out"
check "MONAI's map: $(dice maps)" awk "BEGIN { exit !($(dice maps) >= 0.999) }"
expect 0 "1 cases, 0 left" told "$fix/unetr.pt" --modalities flair,t1 --out turned
check "the order of channels counts: $(dice turned)" awk "BEGIN { exit !($(dice turned) < 0.99) }"
expect 0 "unetr.safetensors" "$program" convert "$fix/unetr.pt" unetr.safetensors
expect 0 "--outputs as above" predict unetr.safetensors --network unetr --set num_heads=3 --modalities t1,flair --box whole --intensity zscore \
    --labels '{"labels": {"TC": [1, 3], "WT": [1, 2, 3], "ET": [3]}}' --out converted
same converted/head.nii.gz maps/head.nii.gz
check "predictions.json says how" grep -q '"hidden_size": 6' converted/predictions.json

expect 1 "--network, --modalities, --labels" predict "$fix/unetr.pt" --out never
expect 2 "--modalities: is said of weights that another program" predict "$fix/unetr.pt" --modalities t1,flair --out never
expect 1 "unetr.pt: holds a UNETR (its tensor 'vit.|the network is unetr" predict "$fix/unetr.pt" --network swin_unetr --out never
expect 2 "no network 'segresnet'; there are uniformer" predict "$fix/unetr.pt" --network segresnet --out never
expect 2 "unetr.pt: tensor 'vit.patch_embedding.patch_embeddings.weight' takes 2 channels: say which" predict "$fix/unetr.pt" --network unetr --out never
expect 1 "takes 2 channels, but 3 modalities are named (t1 flair t2)" told "$fix/unetr.pt" --modalities t1,flair,t2 --out never
expect 2 "unetr.pt: tensor 'out.conv.conv.weight' gives 3 outputs: say what" predict "$fix/unetr.pt" --network unetr --modalities t1,flair --out never
expect 1 "gives 3 outputs, but labels 'isles' are 1 regions" predict "$fix/unetr.pt" --network unetr --modalities t1,flair --labels isles --out never
expect 2 "outputs: 'XY' is none" told "$fix/unetr.pt" --modalities t1,flair --outputs TC,WT,XY --out never
expect 2 "--outputs TC,WT: name each of the 3" told "$fix/unetr.pt" --modalities t1,flair --outputs TC,WT --out never
expect 2 "say other than 'hidden_size=8'" told "$fix/unetr.pt" --modalities t1,flair --set hidden_size=8 --out never
expect 2 "no field 'width'; a UNETR has" told "$fix/unetr.pt" --modalities t1,flair --set width=8 --out never
expect 2 "windows of 32x32x32 alone" told "$fix/unetr.pt" --modalities t1,flair --window 64,64,64 --out never
expect 2 "axes 'RLS'" told "$fix/unetr.pt" --modalities t1,flair --axes RLS --out never
expect 2 "--labels nothing: neither a file nor" told "$fix/unetr.pt" --modalities t1,flair --labels nothing --out never
absent never

# WHAT NAME NETWORK OPTION...: theirs/NAME.pt on the same case
other()
{
    what=$1 name=$2 network=$3
    shift 3
    expect 0 "$what" predict "theirs/$name.pt" --network "$network" --modalities t1,flair --labels phantom --outputs TC,WT,ET --box whole \
        --intensity zscore --out "maps.$name" "$@"
    check "$name: a map" test -s "maps.$name/head.nii.gz"
}
mkdir theirs
if [ ! -x "$writer" ]; then skip "no build/test_weights"
else
    check "files are written" "$writer" write theirs
    other "UniFormer, 2 channels to 3 outputs|dim 16,32,64,128|--set head_dim=16" uniformer uniformer --window 16,16,32
    other "UNET3D, 2 channels to 3 outputs|width 8|--set groups=8" unet3d unet3d --window 16,16,16
    other "UNET3D, 2 channels to 3 outputs|deep 1|left out 1 tensors of the file: limage" m3ae unet3d --window 16,16,16
    other "U-Net of Models Genesis, 2 channels to 3 outputs, width 4" unet3d_mg unet3d_mg --window 16,16,16
    other "U-Net of GVSL, 2 channels to 3 outputs, width 8|left out 2 tensors of the file: unet_pre" unet3d_gvsl unet3d_gvsl --window 24,16,16
    other "Swin-UNETR, 2 channels to 3 outputs|dae 1|--set new_merging=0" dae swin_unetr --window 32,32,64
    other "new_merging 2" swin_vit swin_unetr --set new_merging=2 --window 32,32,64
    expect 2 "new_merging 3 is 0, 1 or 2" predict theirs/swin_vit.pt --network swin_unetr --set new_merging=3 --modalities t1,flair --labels phantom \
        --out never
    expect 1 "holds a U-Net of GVSL (its tensor 'unet.inc.|the network is unet3d_gvsl" predict theirs/unet3d_gvsl.pt --network unet3d_mg --out never
    expect 1 "has no last layer of a segmentation (out.conv.conv.): a pre-trained network; fine-tune it first" predict theirs/swinvit.pt \
        --network swin_unetr --modalities t1 --labels phantom --out never
    absent never
    expect 0 "1 of 1 cases" "$program" phantom --out phantoms --cases 1 --size 64 --tumours 1 --seed 3
    expect 0 "1 cases (1 new" "$program" prepare --data phantoms --out prepared --spacing 0
    tune() { "$program" finetune --data prepared --train all --val all --allow-absent --fill zero --set copies=0 --crop 64 --batch 1 --steps 1 --threads 1 "$@"; }
    expect 0 "tensors taken, 2 adapted|its tensors do not show  --set new_merging=0|done" tune --init theirs/swinvit.pt --out started
    expect 0 "its tensors do not show  --set new_merging=1|done" tune --init theirs/swinvit.pt --set copies=0,new_merging=1 --out newer
    expect 2 "--set new_merging=1: the checkpoint says itself" tune --init started/checkpoint.safetensors --set copies=0,new_merging=1 --out never
    absent never
fi
finish
