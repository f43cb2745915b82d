#!/bin/sh
# layouts.sh - data sets as their providers lay them out: empty files with their names, and the table that `bmvp prepare --dry-run` must make of
# each, whole (tests/fixtures/layouts/NAME.tsv). The names were taken from the providers' own descriptions and from programs that read the sets:
# BraTS 2018, 2021, 2023 (SSA, MEN, PED, MET), UCSF-PDGM, IXI, ISLES22, MRBrainS13, UPENN-GBM, VS-SEG, ADNI, ADHD-200, ABIDE-I; nnU-Net 1 and 2,
# MSD, BIDS, MONAI, BrainMVP's own lists. No volume is read: the files are empty.
# LAYOUTS_MAKE=1 writes the tables instead of comparing them: read every line of what changes.
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/support/check.sh
. tests/support/check.sh
tables=$(pwd)/tests/fixtures/layouts
with_program

# files FOLDER NAME...: empty files in it
files()
{
    folder=$1
    shift
    mkdir -p "$folder"
    for f in "$@"; do : >"$folder/$f"; done
}

# table NAME OPTIONS...: the table of the data that the options name is the one that is kept
table()
{
    name=$1
    shift
    bmvp prepare --dry-run "$@" >"$name.tsv" 2>"$name.err"
    code=$?
    if [ -n "${LAYOUTS_MAKE-}" ]; then cp "$name.tsv" "$tables/$name.tsv"; fi
    if [ "$code" -ne 0 ]; then
        fail "$name: status $code" "$name.err"
    elif diff "$tables/$name.tsv" "$name.tsv" >"$T/said" 2>&1; then pass; else fail "$name: another table" "$T/said"; fi
}

# brats ROOT CASE ENDINGS...
brats()
{
    case_dir=$1/$2 id=$2 sep=$3
    shift 3
    for m in "$@"; do files "$case_dir" "$id$sep$m"; done
}

# ---- the five sets of pre-training -------------------------------------------------------------------------------------------------------------
for i in 00000 00002; do brats brats2021/BraTS2021_Training_Data BraTS2021_$i _ flair.nii.gz t1.nii.gz t1ce.nii.gz t2.nii.gz seg.nii.gz; done
table brats2021 --data brats2021

r=ssa/ASNR-MICCAI-BraTS2023-SSA-Challenge
for i in 00002-000 00007-000; do brats ${r}-TrainingData_V2 BraTS-SSA-$i - t1n.nii.gz t1c.nii.gz t2w.nii.gz t2f.nii.gz seg.nii.gz; done
brats ${r}-ValidationData BraTS-SSA-00126-000 - t1n.nii.gz t1c.nii.gz t2w.nii.gz t2f.nii.gz
table brats2023_ssa --data ssa

for i in 00004-000 00004-001 00008-000; do
    brats men/ASNR-MICCAI-BraTS2023-MEN-Challenge-TrainingData BraTS-MEN-$i - t1n.nii.gz t1c.nii.gz t2w.nii.gz t2f.nii.gz seg.nii.gz
done
table brats2023_men --data men

for i in UCSF-PDGM-0004 UCSF-PDGM-0433 UCSF-PDGM-0433_FU007d; do
    for m in ADC ASL DWI DWI_bias DTI_eddy_FA DTI_eddy_L1 DTI_eddy_L2 DTI_eddy_L3 DTI_eddy_MD DTI_eddy_noreg FLAIR FLAIR_bias SWI SWI_bias T1 \
        T1_bias T1c T1c_bias T2 T2_bias brain_parenchyma_segmentation brain_segmentation tumor_segmentation; do
        files ucsf/UCSF-PDGM-v3/${i}_nifti ${i}_$m.nii.gz
    done
done
table ucsf_pdgm --data ucsf

for i in IXI002-Guys-0828 IXI012-HH-1211; do
    for m in T1 T2 PD MRA; do files ixi/IXI-$m $i-$m.nii.gz; done
    files ixi/IXI-DTI $i-DTI-00.nii.gz $i-DTI-01.nii.gz
done
rm ixi/IXI-MRA/IXI012-HH-1211-MRA.nii.gz
table ixi --data ixi

# ---- the ten of fine-tuning --------------------------------------------------------------------------------------------------------------------
for i in 00002-000 00003-000; do
    brats ped/ASNR-MICCAI-BraTS2023-PED-Challenge-TrainingData BraTS-PED-$i - t1n.nii.gz t1c.nii.gz t2w.nii.gz t2f.nii.gz seg.nii.gz
done
table brats2023_ped --data ped

for i in 00002-000 00412-000; do
    brats met/ASNR-MICCAI-BraTS2023-MET-Challenge-TrainingData BraTS-MET-$i - t1n.nii.gz t1c.nii.gz t2w.nii.gz t2f.nii.gz seg.nii.gz
done
table brats2023_met --data met

for i in 0001 0002; do
    s=sub-strokecase$i
    files isles22/ISLES-2022/$s/ses-0001/anat ${s}_ses-0001_FLAIR.nii.gz
    files isles22/ISLES-2022/$s/ses-0001/dwi ${s}_ses-0001_dwi.nii.gz ${s}_ses-0001_adc.nii.gz
    files isles22/ISLES-2022/derivatives/$s/ses-0001 ${s}_ses-0001_msk.nii.gz
done
: >isles22/ISLES-2022/participants.tsv
table isles22 --data isles22

for i in 1 2; do files mrbrains13/TrainingData/$i LabelsForTesting.nii LabelsForTraining.nii ROIT1.mat T1.nii T1_1mm.nii T1_IR.nii T2_FLAIR.nii; done
files mrbrains13/TestData/1 T1.nii T1_1mm.nii T1_IR.nii T2_FLAIR.nii
table mrbrains13 --data mrbrains13

for i in UPENN-GBM-00001_11 UPENN-GBM-00002_11 UPENN-GBM-00002_21; do
    files upenn/NIfTI-files/images_structural/$i ${i}_FLAIR.nii.gz ${i}_T1.nii.gz ${i}_T1GD.nii.gz ${i}_T2.nii.gz
    files upenn/NIfTI-files/images_structural_unstripped/$i ${i}_FLAIR_unstripped.nii.gz ${i}_T1_unstripped.nii.gz ${i}_T1GD_unstripped.nii.gz \
        ${i}_T2_unstripped.nii.gz
    files upenn/NIfTI-files/images_DTI/images_DTI/$i ${i}_DTI_AD.nii.gz ${i}_DTI_FA.nii.gz ${i}_DTI_RD.nii.gz ${i}_DTI_TR.nii.gz
    files upenn/NIfTI-files/automated_segm ${i}_automated_approx_segm.nii.gz
done
files upenn/NIfTI-files/images_segm UPENN-GBM-00002_11_segm.nii.gz
rm upenn/NIfTI-files/automated_segm/UPENN-GBM-00002_21_automated_approx_segm.nii.gz
table upenn_gbm --data upenn

files vs/vs_gk_1 vs_gk_t1_refT1.nii.gz vs_gk_t2_refT1.nii.gz vs_gk_seg_refT1.nii.gz
files vs/vs_gk_3 vs_gk_t1_refT1.nii.gz vs_gk_t2_refT2.nii.gz vs_gk_seg_refT1.nii.gz vs_gk_seg_refT2.nii.gz
table vs_seg --data vs

for i in HGG/Brats18_2013_10_1 HGG/Brats18_TCIA01_131_1 LGG/Brats18_TCIA09_141_1; do
    for m in flair seg t1 t1ce t2; do files brats2018/MICCAI_BraTS_2018_Data_Training/$i "${i#*/}_$m.nii.gz"; done
done
table brats2018 --data brats2018

adni() { files "adni/ADNI/$1/$2/$3/$4" "ADNI_$1_MR_$2_Br_20070219173850420_S21856_$4.nii"; }
adni 002_S_0295 MPR__GradWarp__B1_Correction__N3__Scaled 2006-04-18_08_20_30.0 I45108
adni 002_S_0295 MPR__GradWarp__B1_Correction__N3__Scaled 2006-11-02_08_16_44.0 I40966
adni 002_S_0413 MPR-R__GradWarp__B1_Correction__N3__Scaled 2006-05-02_12_31_52.0 I40657
adni 002_S_4171 Accelerated_SAG_IR-SPGR 2011-08-03_09_12_00.0 I248516
adni 002_S_4171 Axial_T2-FLAIR 2011-08-03_09_20_00.0 I248519
adni 002_S_4171 Resting_State_fMRI 2011-08-03_09_30_00.0 I248520
cat >adni/ADNI1_Complete.csv <<'END'
"Image Data ID","Subject","Group","Sex","Age","Visit","Modality","Description","Type","Acq Date","Format","Downloaded"
"I45108","002_S_0295","CN","M","85","sc","MRI","MPR; GradWarp; B1 Correction; N3; Scaled","Processed","4/18/2006","NiFTI","12/01/2026"
"I40966","002_S_0295","CN","M","85","m06","MRI","MPR; GradWarp; B1 Correction; N3; Scaled","Processed","11/02/2006","NiFTI","12/01/2026"
"I40657","002_S_0413","MCI","F","76","sc","MRI","MPR-R; GradWarp; B1 Correction; N3; Scaled","Processed","5/02/2006","NiFTI","12/01/2026"
"I248516","002_S_4171","AD","M","69","bl","MRI","Accelerated SAG IR-SPGR","Original","8/03/2011","NiFTI","12/01/2026"
END
table adni --data adni --classes adni/ADNI1_Complete.csv --id-column Subject --class-column Group

for i in 0010001 0010002; do
    files adhd200/NYU/$i/session_1/anat_1 mprage.nii.gz
    files adhd200/NYU/$i/session_1/rest_1 rest.nii.gz
done
files adhd200/NYU/0010001/session_1/anat_2 mprage.nii.gz
files adhd200/Peking_1/1050345/session_1/anat_1 mprage.nii.gz
files adhd200/Peking_1/1050345/session_2/anat_1 mprage.nii.gz
printf 'ScanDir ID,Site,Gender,Age,DX\r\n10001,5,1,9.5,0\r\n10002,5,0,10.1,3\r\n1050345,1,1,12,1\r\n' >adhd200/adhd200_phenotypics.csv
table adhd200 --data adhd200 --classes adhd200/adhd200_phenotypics.csv --id-column "ScanDir ID" --class-column DX
for i in 0010001 0010002; do
    files athena/NYU_preproc/$i wssd${i}_session_1_anat.nii.gz wssd${i}_session_1_anat_gm.nii.gz swssd${i}_session_1_anat_gm.nii.gz \
        snwmrda${i}_session_1_rest_1.nii.gz sfnwmrda${i}_session_1_rest_1.nii.gz wmean_mrda${i}_session_1_rest_1.nii.gz
done
table adhd200_athena --data athena

for i in CMU_a/0050642 NYU/0050952 NYU/0050953; do
    files abide/$i/session_1/anat_1 mprage.nii.gz
    files abide/$i/session_1/rest_1 rest.nii.gz
done
printf 'SITE_ID,SUB_ID,DX_GROUP,DSM_IV_TR\nCMU,50642,1,1\nNYU,50952,1,1\nNYU,50953,2,-9999\n' >abide/Phenotypic_V1_0b.csv
table abide1 --data abide --classes abide/Phenotypic_V1_0b.csv --id-column SUB_ID --class-column DX_GROUP
for i in 0050642 0050643; do
    files abide_bids/CMU_a/sub-$i/anat sub-${i}_T1w.nii.gz
    files abide_bids/CMU_a/sub-$i/func sub-${i}_task-rest_run-1_bold.nii.gz
done
table abide1_bids --data abide_bids

# ---- conventions -------------------------------------------------------------------------------------------------------------------------------
for i in 001 002; do
    for c in 0000 0001 0002 0003; do files nn2/Dataset137_BraTS2021/imagesTr BraTS_${i}_$c.nii.gz; done
    files nn2/Dataset137_BraTS2021/labelsTr BraTS_$i.nii.gz
done
for c in 0000 0001 0002 0003; do files nn2/Dataset137_BraTS2021/imagesTs BraTS_003_$c.nii.gz; done
cat >nn2/Dataset137_BraTS2021/dataset.json <<'END'
{"channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "3": "Flair"}, "numTraining": 2, "file_ending": ".nii.gz", "regions_class_order": [1, 2, 3],
 "labels": {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3}, "site": "x"}
END
table nnunet_v2 --data nn2/Dataset137_BraTS2021

printf '\200\003]q\000.' >nn2/Dataset137_BraTS2021/splits_final.pkl
expect 0 "splits_final.pkl: a pickle, which is not read; make JSON of it" bmvp prepare --dry-run --data nn2/Dataset137_BraTS2021

for i in 001 002; do
    for c in 0000 0001; do files nn1/Task500_X/imagesTr pat_${i}_$c.nii.gz; done
    files nn1/Task500_X/labelsTr pat_$i.nii.gz
done
files nn1/Task500_X/labelsTs_pred pat_001.nii.gz
cat >nn1/Task500_X/dataset.json <<'END'
{"name": "X", "tensorImageSize": "4D", "modality": {"0": "T1", "1": "MR"}, "labels": {"0": "background", "1": "lesion"}, "numTraining": 2}
END
table nnunet_v1 --data nn1/Task500_X

for i in 001 002; do
    files msd/Task01_BrainTumour/imagesTr BRATS_$i.nii.gz
    files msd/Task01_BrainTumour/labelsTr BRATS_$i.nii.gz
done
cat >msd/Task01_BrainTumour/dataset.json <<'END'
{"name": "BRATS", "description": "Gliomas", "reference": "x", "licence": "CC-BY-SA 4.0", "release": "2.0", "tensorImageSize": "4D",
 "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}, "numTraining": 2, "numTest": 1,
 "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
 "training": [{"image": "./imagesTr/BRATS_001.nii.gz", "label": "./labelsTr/BRATS_001.nii.gz"},
              {"image": "./imagesTr/BRATS_002.nii.gz", "label": "./labelsTr/BRATS_002.nii.gz"}],
 "test": ["./imagesTs/BRATS_003.nii.gz"]}
END
table msd --data msd/Task01_BrainTumour

for s in 01 02; do
    p=sub-${s}_ses-pre
    files bids/sub-$s/ses-pre/anat ${p}_T1w.nii.gz ${p}_ce-gadolinium_T1w.nii.gz ${p}_run-1_T2w.nii.gz ${p}_run-2_T2w.nii.gz ${p}_FLAIR.nii.gz
    files bids/sub-$s/ses-pre/dwi ${p}_dwi.nii.gz
    files bids/sub-$s/ses-pre/perf ${p}_asl.nii.gz
    files bids/derivatives/manual/sub-$s/ses-pre/anat ${p}_label-lesion_mask.nii.gz
    files bids/derivatives/fmriprep/sub-$s/ses-pre/anat ${p}_desc-preproc_T1w.nii.gz ${p}_desc-brain_mask.nii.gz
    files bids/sourcedata/sub-$s x_T1w.nii.gz
done
files bids/sub-02/ses-post/anat sub-02_ses-post_T1w.nii.gz
printf 'participant_id\tage\tgroup\nsub-01\t31\tpatient\nsub-02\t45\tcontrol\n' >bids/participants.tsv
printf '{"Name": "x", "BIDSVersion": "1.8.0"}' >bids/dataset_description.json
table bids --data bids --class-column group

mkdir -p monai/img
for i in 1 2 3 4; do files monai/img/p$i t1.nii.gz flair.nii.gz seg.nii.gz; done
cat >monai/folds.json <<'END'
{"training": [{"image": ["p1/t1.nii.gz", "p1/flair.nii.gz"], "label": "p1/seg.nii.gz", "fold": 0, "age": 61},
              {"image": ["p2/t1.nii.gz", "p2/flair.nii.gz"], "label": "p2/seg.nii.gz", "fold": 1, "labels": {"lesion": 7}}],
 "validation": [{"image": ["p3/t1.nii.gz", "p3/flair.nii.gz"], "label": "p3/seg.nii.gz"}],
 "testing": [{"image": ["p4/t1.nii.gz", "p4/flair.nii.gz"]}], "labels": {"lesion": 1}, "site": 3}
END
table monai --data monai/folds.json --root monai/img

mkdir -p mvp/jsons mvp/Dataset
for i in 0515 0444; do
    for m in ADC DWI FLAIR T1 T1c T2; do files mvp/Dataset/UCSF_upright_sir24/UCSF-PDGM-${i}_nifti UCSF-PDGM-${i}_$m.nii.gz; done
done
list_of() { for m in ADC DWI FLAIR T1 T1c T2; do printf '%s"UCSF-PDGM-%s_nifti/UCSF-PDGM-%s_%s.nii.gz"' "$c" "$1" "$1" $m; c=", "; done; }
{ printf '{"training": [{"image": ['; c=; list_of 0515; printf ']}], "validation": [{"image": ['; c=; list_of 0444; printf ']}]}\n'; } \
    >mvp/jsons/dataset_UCSF_upright_sir24.json
table brainmvp_list --data mvp/jsons/dataset_UCSF_upright_sir24.json --root mvp/Dataset/UCSF_upright_sir24

# one case with files in folders of the set: BraTS 2013, WMH, OASIS-1
for p in 1 2; do
    for m in MR_Flair.1 MR_T1.2 OT.3; do files brats2013/HGG/pat_$p/VSD.Brain.XX.O.$m VSD.Brain.XX.O.$m.nii; done
    for d in orig pre; do files wmh/Utrecht/$p/$d FLAIR.nii T1.nii; done
    files wmh/Utrecht/$p wmh.nii
    for e in hdr img; do
        files oasis1/OAS1_000${p}_MR1/RAW OAS1_000${p}_MR1_mpr-1_anon.$e OAS1_000${p}_MR1_mpr-2_anon.$e
        files oasis1/OAS1_000${p}_MR1/PROCESSED/MPRAGE/T88_111 OAS1_000${p}_MR1_mpr_n4_anon_111_t88_gfc.$e
    done
    for a in x y; do files deep/$a/s$p/1 t1.nii; done
done
for name in brats2013 wmh oasis1 deep; do table $name --data $name; done

# ---- roles: what qualifies a word counts; of two candidates none is taken; every file is used or named --------------------------------------
# roles NAME "ROLES" FILES...: the roles of a case's files, in the order of the table
roles()
{
    want=$1
    shift
    rm -rf one
    files one/case "$@"
    bmvp prepare --dry-run --data one >one.tsv 2>one.err
    got=$(awk -F'\t' 'NR > 1 && $5 != "left out" { n = split($6, p, "/"); printf "%s=%s ", $5, p[n] }' one.tsv)
    if [ "$got" = "$want" ]; then pass; else fail "roles of $*: $got, not $want" one.err; fi
}
roles "t1=T1.NII.GZ t2=t2w.Nii " T1.NII.GZ t2w.Nii
roles "t1=a_T1_pre.nii t1c=a_T1_post.nii " a_T1_pre.nii a_T1_post.nii
roles "t1c=post_t1.nii t2=t2.nii " post_t1.nii t2.nii
roles "t1c=t1_gd.nii " t1_gd.nii
roles "flair=T2_FLAIR.nii t2=T2.nii " T2_FLAIR.nii T2.nii
roles "mra=x_TOF.nii pd=x_PD.nii dwi=x_trace.nii adc=x_ADC.nii " x_TOF.nii x_PD.nii x_trace.nii x_ADC.nii
roles "t1=t1.nii label=lesion_mask.nii " t1.nii lesion_mask.nii
roles "t1=t1.nii label=mask.nii " t1.nii mask.nii
roles "t1=t1.nii label=seg.nii " t1.nii seg.nii mask.nii brainmask.nii t1_mask.nii brain_seg.nii
roles "t1=t1.nii " t1.nii bet_mask.nii
roles "t1=t1.nii label=tumour_seg.nii " t1.nii tumour_seg.nii auto_seg.nii
roles "t1=t1_brain.nii " t1_brain.nii
roles "t1=t1.nii " t1.nii t1_brain.nii t1_n4.nii t1_reg.nii
roles "t1=t1_case7.nii t2=t2_case7.nii " t1_case7.nii t2_case7.nii
roles "t1=my-scan_t1.nii label=Segmentation.nii " my-scan_t1.nii Segmentation.nii
roles "t1=t1.nii label=lesion_mask.nii " t1.nii lesion_mask.nii mask.nii
roles "t1=sub-1_T1w.nii label=sub-1_label-lesion_roi.nii " sub-1_T1w.nii sub-1_mask.nii sub-1_label-lesion_roi.nii
roles "t1=sub-1_ce-none_T1w.nii t1c=sub-1_ce-gd_T1w.nii " sub-1_ce-none_T1w.nii sub-1_ce-gd_T1w.nii
# contrast in other words; derived images, lesions' maps and programs' images are no modality; words that all files share are the case's
roles "t1c=T1+C.nii t2=t2.nii " T1+C.nii t2.nii
roles "t1=t1_noncontrast.nii t1c=T1-post-contrast.nii " T1-post-contrast.nii t1_noncontrast.nii
roles "flair=T2 FLAIR.nii t1c=T1 post Gd.nii " "T1 post Gd.nii" "T2 FLAIR.nii"
roles "t1=Sag_T1.nii t1c=Cor T1 POST.nii t2=Axial_T2.nii " Axial_T2.nii Sag_T1.nii "Cor T1 POST.nii"
roles "t1=mprage.nii t1c=MPRAGE_post.nii " mprage.nii MPRAGE_post.nii
roles "flair=flair.nii " flair.nii lesion_t1.nii
roles "flair=flair.nii " flair.nii t1_lesion.nii
roles "flair=flair.nii label=flair_lesion_mask.nii " flair.nii flair_lesion_mask.nii
roles "t1=stroke_t1.nii t2=stroke_t2.nii " stroke_t1.nii stroke_t2.nii
roles "t1=t1.nii " t1.nii face_mask.nii foreground-mask.nii gm_mask.nii asl_mask.nii
roles "t1=t1.nii label=wm_lesion_mask.nii " t1.nii wm_lesion_mask.nii
roles "flair=FLAIR.NII " FLAIR.NII synthetic_t1.nii t1_pred.nii
roles "t2=t2.nii " t2.nii diff_t1.nii t1_jacobian.nii gm_t1.nii pet_t1.nii exp_adc.nii
roles "t1=t1.nii " t1.nii t1_denoised.nii
roles "flair=flair.nii " flair.nii t1_atlas.nii MNI152_T1_1mm.nii
roles "t1=x_mni152_t1.nii t2=x_mni152_t2.nii " x_mni152_t1.nii x_mni152_t2.nii
roles "t1=t1.nii " t1.nii csf_seg.nii gm_label.nii ventricle_mask.nii
roles "flair=AX_T2_FLAIR_FS.nii t1c=T1+.nii " T1+.nii AX_T2_FLAIR_FS.nii
roles "flair=3D_FLAIR.nii t1=T1_MPRAGE_SAG.nii " T1_MPRAGE_SAG.nii 3D_FLAIR.nii
roles "t2=T2.nii pd=PD.nii " PD.nii T2.nii PD_T2.nii
roles "t1=T1.nii label=ground-truth.nii " T1.nii ground-truth.nii
roles "t1=t1.nii " t1.nii ._t1.nii t2.nii.gz.part flair.nii.xz t2star.nii "T2*.nii" t1_t2.nii
# what a program made of the images is no label, alone or not; nor are maps of numbers
made="seg_pred.nii prediction_seg.nii pred_mask.nii seg_prediction.nii label_predicted.nii lesion_mask_pred.nii pred_lesion.nii seg-output.nii
    nnUNet_seg.nii model_seg.nii auto_seg.nii t1_seg_pred.nii synthseg_seg.nii seg_ensemble.nii seg_inference.nii pseudo_label.nii seg_softmax.nii
    seg_prob.nii mask_uncertainty.nii seg_diff.nii"
# shellcheck disable=SC2086 # words wanted
roles "t1=t1.nii " t1.nii $made
# shellcheck disable=SC2086 # words wanted
roles "t1=t1.nii label=seg.nii " t1.nii seg.nii $made
roles "t1=pred_t1.nii label=pred_seg.nii " pred_t1.nii pred_seg.nii
roles "t1=output_t1.nii label=output_seg.nii " output_t1.nii output_seg.nii
two() { expect "$1" "$2" bmvp prepare --dry-run --data one --out none; }
rm -rf one && files one/a t1.nii && files one/b t1_x.nii t2.nii && files one/c x_T1.nii y_T1w.nii && files one/d seg.nii
two 0 "two candidates for t1: one/c/x_T1.nii and one/c/y_T1w.nii|'x' is no word that is known after 't1'|case 'd': it has no image, only the label one/d/seg.nii"
rm -rf one && files one/a t1.nii seg_pred.nii
two 0 "a	a			t1	one/a/t1.nii|one/a/seg_pred.nii: 'pred' says that a program has predicted it: no label"
rm -rf one && files one/IXI-T1 IXI002-T1.nii IXI003-T1.nii && files one/predictions IXI002-seg.nii
two 0 "IXI002	IXI002			t1|one/predictions/IXI002-seg.nii: its folder says that a program has predicted it"
rm -rf one && files one/sub-01/anat sub-01_T1w.nii && files one/derivatives/synthseg/sub-01/anat sub-01_dseg.nii
two 0 "sub-01	sub-01			t1|sub-01_dseg.nii: its folder says that a program has predicted it"
rm -rf one && files one/sub-01/anat sub-01_T1w.nii && files one/derivatives/x/sub-01/anat sub-01_desc-nnunet_dseg.nii
two 0 "sub-01	sub-01			t1|sub-01_desc-nnunet_dseg.nii: of derivatives/ only label maps are taken"
rm -rf one && files one/a seg.nii label.nii t1.nii
two 1 "no cases can be used|two candidates for the label|seg.nii|label.nii|--as NAME=PATTERN|bmvp list"
# a patient's images once more, on another grid or as they were: two candidates, wherever the copy's folder stands; not two cases
while read -r a b; do
    rm -rf one && files "one/$a" t1.nii && files "one/$b" t1.nii && files one/p2 t1.nii
    two 0 "case 'p1': two candidates for t1: |one/$a/t1.nii|one/$b/t1.nii|p2	p2			t1	one/p2/t1.nii"
done <<END
p1/mni p1/native
p1 p1/Backup
p1/registered p1/stripped
mni/p1 native/p1
preprocessed/p1 raw/p1
p1 p1/MNI152
END
rm -rf one && files one/p1/mni t1.nii && files one/p2/mni t1.nii
two 0 "p1	p1			t1	one/p1/mni/t1.nii|p2	p2			t1	one/p2/mni/t1.nii"
rm -rf one && files one/p1/mni t1.nii && files one/p1/native t1.nii && files one/p2/native t1.nii
expect 0 "p1	p1			t1	one/p1/native/t1.nii|p2	p2			t1" bmvp prepare --dry-run --data one --as "none=*/mni/*"
# a case's number behind the role; numbers of a case's scans
for d in . FLAIR; do
    rm -rf one && files one/images/$d FLAIR_001.nii FLAIR_002.nii && files one/images T1_001.nii T1_002.nii
    two 0 "001	001			flair|001	001			t1|002	002			flair|002	002			t1"
done
rm -rf one && files one/p1 FLAIR_001.nii FLAIR_002.nii && files one/p2 T1_001.nii
two 0 "case 'p1': two candidates for flair|p2	p2			t1	one/p2/T1_001.nii"
rm -rf one && files one FLAIR_1.nii FLAIR_2.nii T1_1.nii
two 1 "two candidates for flair: one/FLAIR_1.nii and one/FLAIR_2.nii"
rm -rf one && files one/a t1.nii t1.mgz t2.nrrd
two 0 "one/a/t1.mgz|not a format that is read"
rm -rf one && files one/a scan_1.nii scan_2.nii gold.nii
expect 0 "a	a			t1	one/a/scan_1.nii|a	a			flair	one/a/scan_2.nii|label	one/a/gold.nii" bmvp prepare --dry-run --data one \
    --as "t1=*_1.nii,flair=*_2*,label=a/gold*"
expect 1 "'t9' is neither a modality" bmvp prepare --dry-run --data one --as t9=x

rm -rf one && files one/a t1.nii && files one/1/2/3/4/5/6/7/8/9/10/11/12/13/b t1.nii
two 0 "one/1/2/3/4/5/6/7/8/9/10/11/12/13: cannot be looked into: a folder within too many folders"
if [ "$(id -u)" -eq 0 ]; then skip "a folder that may not be read: root may read all"; else
    rm -rf one && files one/a t1.nii && files one/b t1.nii && chmod 000 one/b
    two 0 "one/b: cannot be looked into: Permission denied"
    chmod 755 one/b
fi
rm -rf one && files one/a t1.nii && files "one/$(printf 'caf\351')" t1.nii
two 0 "its name is not UTF-8, so no list can hold it: rename it|a	a			t1"
rm -rf one && files "one/$(printf 'new\nline')" t1.nii
two 0 "control characters of a name: the case is called 'new_line' without them|new_line	new_line			t1	one/new?line/t1.nii"
rm -rf one && files one/a scan_1.nii scan_2.nii gold.nii

# ---- patients: time points in any naming, where more than one patient has them -----------------------------------------------------------------
# patients "PATIENTS" CASES...: the patients of these cases, in the order of the table
patients()
{
    want=$1
    shift
    rm -rf visits
    for c in "$@"; do files "visits/$c" t1.nii; done
    got=$(bmvp prepare --dry-run --data visits 2>/dev/null | awk -F'\t' 'NR > 1 { printf "%s ", $2 }')
    check "patients of $*: $got, not $want" test "$got" = "$want"
}
patients "P01 P01 P02 " P01_V1 P01_V2 P02_V1
patients "OAS1_0001 OAS1_0001 OAS1_0002 " OAS1_0001_MR1 OAS1_0001_MR2 OAS1_0002_MR1
patients "Patient-001 Patient-001 Patient-002 " Patient-001_week-000-1 Patient-001_week-044 Patient-002_week-000-2
patients "100 100 101 " 100_post 100_pre 101-preop
patients "A A B " A_2019-01-02 A_20200304 B_20200304
patients "S1-T0 S1-T1 " S1-T0 S1-T1 # one patient's visits, or patients T0 and T1 of a site?
patients "case_0001 site_m1 site_m2 " case_0001 site_m1 site_m2
patients "X X Y " X-T0 X-T1 Y-T0
patients "A A Q Q W W Y Y " A_month0 A_12m Q_m00 Q_m12 W_bl W_fu Y.1 Y.2
patients "Y.1 Y.2 Y.3 " Y.1 Y.2 Y.3
patients "007 007 008 case_1 case_2 " 007_1 007_2 008_1 case_1 case_2
patients "HGG_1 HGG_2 LGG_1 " HGG_1 HGG_2 LGG_1
patients "P1 P1 P3 " P1 P1_V2 P3
patients "P01 P01 P02 P02 " P01V1 P01V2 P02V1 P02V2
patients "s7 s7 s8 " s7tp1 s7visit2 s8tp1
patients "12 12 14 " 12pre 12post 14pre
patients "P01V1 P01V2 " P01V1 P01V2
patients "HGG3T site1a site1b " HGG3T site1a site1b
patients "p1 p1 p2 " p1 p1_backup p2
patients "T-0003 T-0003 " T-0003_1997.06.08 T-0003_19980608
guess() { rm -rf visits; for c in "$2" "$3"; do files "visits/$c" t1.nii; done; expect 0 "$1" bmvp prepare --dry-run --data visits; }
guess "'T_20190102' and 'T_20200304' are visits of patient 'T'; \"patient\" in a list says otherwise" T_20190102 T_20200304
guess "'P1_V2' is a visit of patient 'P1'" P1 P1_V2
guess "'S1-T0' and 'S1-T1' are taken as two patients; if they are visits of one, 'S1'" S1-T0 S1-T1
rm -rf visits

# ---- what a file is said by its folder; nnU-Net's folders without dataset.json ------------------------------------------------------------------
# rows "CASE:ROLE CASE:ROLE .." OPTIONS...: the table of the data in one/, in its order
rows()
{
    want=$1
    shift
    bmvp prepare --dry-run --data one "$@" >one.tsv 2>one.err
    got=$(awk -F'\t' 'NR > 1 && $5 != "left out" { printf "%s%s:%s:%s", gap, $1, $4, $5; gap = " " }' one.tsv)
    if [ "$got" = "$want" ]; then pass; else fail "rows of $*: $got, not $want" one.err; fi
}
rm -rf one && for m in images/T1 images/t2w masks brain_masks; do files one/$m p1.nii p2.nii; done
rows "p1::t1 p1::t2 p1::label p2::t1 p2::t2 p2::label"
rm -rf one && for m in T1/0000 FLAIR/0001; do files "one/train/${m%/*}" "p1_${m#*/}.nii" "p2_${m#*/}.nii"; done && files one/test/T1 q.nii
rows "q:test:t1 p1:train:flair p1:train:t1 p2:train:flair p2:train:t1"
rm -rf one && for p in p1 p2; do files one/$p/T1 scan.nii && files one/$p/FLAIR im_3.nii && files one/$p/seg scan.nii; done
rows "p1::flair p1::t1 p1::label p2::flair p2::t1 p2::label"
rm -rf one && for p in p1 p2; do files one/T1/$p im.nii && files one/FLAIR/$p im.nii; done
rows "p1::flair p1::t1 p2::flair p2::t1"
rm -rf one && for t in T0 T1 T2; do files one/p1/$t scan.nii; done
rows "" # time points, not T1 and T2
rm -rf one && for f in images masks; do files one/$f p1_t1.nii p2_t1.nii; done # one name in both folders
rows "p1::t1 p1::label p2::t1 p2::label"
rm -rf one && for p in p1 p2; do files one/$p t1.nii && files one/$p/labels t1.nii; done
rows "p1::t1 p1::label p2::t1 p2::label"
rm -rf one && for p in p1 p2; do files one/$p t1.nii && files one/$p/brain_masks t1.nii && files one/$p/predictions t1.nii; done
rows "p1::t1 p2::t1"
rm -rf one && files one/segmentation/p1 t1.nii seg.nii && files one/segmentation/p2 t1.nii seg.nii # a folder of that name holds the set
rows "p1::t1 p1::label p2::t1 p2::label"
rm -rf one && files one/train/p1 t1.nii && files one/val/p2 t1.nii && files one/test/p3 t1.nii
rows "p3:test:t1 p1:train:t1 p2:val:t1"
rm -rf one && files one/images p1_t1.nii p1_flair.nii p2_t1.nii p2_flair.nii && files one/labels p1.nii p2.nii
rows "p1::flair p1::t1 p1::label p2::flair p2::t1 p2::label"
rm -rf one && files one/imagesTr p1_0000.nii p1_0001.nii p2_0000.nii && files one/labelsTr p1.nii p2.nii && files one/imagesTs q_0000.nii
two 1 "channel 1, and no dataset.json that says what it is: --as t1=*_0001.nii*"
rows "p1:train:flair p1:train:t1 p1:train:label p2:train:t1 p2:train:label q:test:t1" --as "t1=*_0000.nii*,flair=*_0001*"
rm -rf one && files one/images 01_a.nii 01_b.nii 02_a.nii && files one/masks 01.nii 02.nii
rows "01::t1 01::t2 01::label 02::t1 02::label" --as "t1=*_a.nii,t2=*_b.nii"
rm -rf one && files one/a scan_1.nii scan_2.nii gold.nii

# ---- lists ------------------------------------------------------------------------------------------------------------------------------------
expect 0 "list.json: 1 cases (case folders), 0 left out; 0 files or keys not used" bmvp list --data one --out list.json \
    --as "t1=*_1.nii,flair=*_2*,label=*gold*"
expect 0 "a	a			t1	one/a/scan_1.nii|label	one/a/gold.nii" bmvp list --data list.json
expect 1 "list.json: is there already; remove it" bmvp list --data list.json --out list.json
printf '{"mine": 1}' >mine.json
expect 1 "mine.json: is there already, and bmvp has not written it" bmvp split --data list.json --ratio 1:0:0 --out mine.json
check "mine.json is as it was" grep -q '{"mine": 1}' mine.json
said() { printf '%s' "$1" >said.json; expect "$2" "$3" bmvp prepare --dry-run --data said.json; }
# a list and a file's name that say different modalities; keys of an image
said '{"cases": [{"id": "a", "images": {"t1": "x_t2.nii", "t2": "x_t1.nii", "t1c": "y_T1w.nii", "flair": "scan.nii"}}]}' 0 \
    "x_t2.nii: the list says that it is t1, its name t2: taken as t1|x_t1.nii: the list says that it is t2, its name t1|a	a			t1	x_t2.nii"
check "t1c and a name without a role are no contradiction" sh -c '! grep "its name" "$1" | grep -q "y_T1w\|scan"' said "$out"
said '{"modality": {"0": "FLAIR", "1": "T1w"}, "training": [{"image": ["a_t1.nii", "a_flair.nii"]}]}' 0 \
    "a_t1.nii: the list says that it is flair, its name t1: taken as t1|doubtful|a	a			flair	a_flair.nii"
said '{"modality": {"0": "FLAIR", "1": "T1w"}, "training": [{"image": ["a_flair.nii", "a_t1.nii"]}]}' 0 "a	a			flair	a_flair.nii"
check "a list that names them rightly" sh -c '! grep -q "its name" "$1"' said "$out"
said '{"cases": [{"id": "a", "images": {"t1": {"file": "x.nii", "component": 2}, "t2": {"file": "x.nii", "channel": "1"}}}]}' 0 \
    "component: a key of image 't1' that is not used|a	a			t2	x.nii [channel 1]"
for channel in -1 1.5 '"b"' '[0]'; do
    said "{\"cases\": [{\"id\": \"a\", \"images\": {\"t1\": {\"file\": \"x.nii\", \"channel\": $channel}}}, {\"id\": \"b\", \"images\": {\"t1\": \"y.nii\"}}]}" 0 \
        "case 'a': case 'a': image 't1': \"channel\" must be a whole number from 0|b	b			t1	y.nii"
done
said '{"training": ["p_t1.nii"], "validation": ["q_t1.nii"]}' 0 "p	p		train	t1|q	q		val	t1"
said '{"testing": [{"image": ["p_t1.nii", "p_gm.nii"], "label": "2"}]}' 0 "p	p	2		t1	p_t1.nii|p_gm.nii: unknown modality"
said '{"training": [{"image": "a/t1.nii"}, {"image": "b/t1.nii"}]}' 0 "a	a			t1|b	b			t1"
said '{"training": [{"t1": "a/t1.nii", "flair": null, "seg": "a/seg.nii", "age": 3}]}' 0 \
    "a	a			t1	a/t1.nii|label	a/seg.nii|age: a key of the cases that is not used"
said '{"training": [{"image": {"t1": "a/t1.nii", "t2": "a/t2.nii"}, "label": "a/seg.nii"}]}' 0 "t2	a/t2.nii|label	a/seg.nii"
said '{"training": ["a_t1.nii"], "validation": ["a_t1.nii", "b_t1.nii"]}' 0 "a	a		train	t1|a_case	a		val	t1|b	b		val	t1"
expect 1 "cases 'a' and 'a_case' of patient 'a' are in different parts" bmvp split --data said.json --out parts.json
expect 0 "parts.json: " bmvp split --data said.json --out parts.json --seed 1 --ratio 1:0:1
said '{"training": [{"label": "a.nii"}]}' 1 "needs \"image\": a path or a list of paths, or a key for each modality"
said '{"cases": [{"id": "a", "images": {"t1": {"file": "x.nii", "channel": 2}}, "fold": 3, "part": "Test"}]}' 0 "test fold:3	t1	x.nii [channel 2]"
said '{"cases": [{"id": "a", "images": {"t1": "x.nii"}, "part": "some"}]}' 1 "\"part\" must be train, val or test"
said '{"cases": [{"id": "a", "images": {"t1": "x.nii"}, "age": 3}], "centre": 1, "licence": "x"}' 0 "age: a key of the cases|centre: a key of the list"
said '{"channel_names": {"1": "T1"}}' 1 "channels must be numbered"
said '{"cases": [{"id": "a", "images": {"t1": "x.nii"}}], "labels": {"a": 1, "ignore": 2}}' 0 "ignore: voxels of value 2 are no class: losses and figures do not see them"
said '{"cases": [{"id": "a", "images": {"t1": "x.nii"}}], "labels": {"a": [1, 2], "ignore": 2}}' 1 "both \"ignore\" and a class"

said '{"cases": [{"id": "a", "images": {"t1": "x.nii"}}], "test": [{"image": "b_t1.nii"}]}' 1 'has "cases" (ours) and arrays as "training"'
said '{"cases": [{"id": "a", "images": {"t1": "x.nii"}, "part": "train", "split": "test"}]}' 1 '"part" and "split" say different things'
said '{"cases": [{"id": "a", "images": {"t1": "x.nii"}, "part": null, "split": "test"}]}' 0 "a	a		test	t1"

# a value of another type is taken where its meaning is plain; a case that cannot be read costs itself
said '[{"image": "a/t1.nii", "label": "a/seg.nii"}, {"id": 7, "images": {"t1": "b.nii", "t2": "", "flair": null}, "patient": 12}]' 0 \
    "a	a			t1	a/t1.nii|a	a			label	a/seg.nii|7	12			t1	b.nii"
said '{"train": ["a_t1.nii"], "val": ["b_t1.nii"]}' 0 "a	a		train	t1|b	b		val	t1"
said '{"training": [{"image": ["a/t1.nii", null, "a/flair.nii"], "label": "AD"}, {"image": "b/t1.nii", "label": 0}], "class_names": ["CN", "AD"]}' 0 \
    "a	a	1		t1	a/t1.nii|a	a	1		flair|b	b	0		t1"
said '{"training": [{"image": "a/t1.nii", "label": "AD"}, {"image": "b/t1.nii"}]}' 0 "case 'a': case 'a': \"label\" 'AD' is neither a file nor a class|b	b			t1"
said '{"training": [{"image": "a/t1.nii"}, {"label": "b.nii"}, {"image": "c/t1.nii", "fold": "x"}]}' 0 \
    "said.json: training entry 1 needs \"image\"|case 'c': case 'c': \"fold\" must be|a	a			t1"
said '{"cases": [{"id": "a", "images": {"t1": "x.nii", "ct": "y.nii"}}, {"id": "b", "images": {"ct": "z.nii"}}], "labels": {"l": "1"}}' 0 \
    "a	a			t1	x.nii|y.nii: unknown modality 'ct'|case 'b': case 'b' has no images"

# ---- classes ----------------------------------------------------------------------------------------------------------------------------------
said '{"cases": [{"id": "s007", "images": {"t1": "x.nii"}}, {"id": "s11", "images": {"t1": "y.nii"}}, {"id": "s12", "images": {"t1": "z.nii"}}]}' 0 s007
classes() { printf '%b' "$1" >table.csv; shift; expect "$@" bmvp prepare --dry-run --data said.json --classes table.csv --class-column dx; }
classes 'id;dx\nS7;AD\ns11;"CN"\n' 0 "s007	s007	0|s11	s11	1|class 0: dx 'AD'|case 's12': kept, without a class"
classes 'id\tdx\ns7\t1\ns11\t0\ns12\tn/a\n' 0 "s007	s007	1|s11	s11	0|s12	s12		"
classes 'id,dx\ns7,3\ns11,10\ns12,3\n' 0 "s007	s007	0|s11	s11	1|class 1: dx '10'"
classes 'id,dx\ns7,1\ns11,1.0 \ns12, 0\n' 0 "s007	s007	1|s11	s11	1|s12	s12	0"
classes 'id,dx\ns7,"AD "\ns11, AD\ns12,pending\n' 0 "s007	s007	0|s11	s11	0|class 0: dx 'AD'|case 's12': kept, without"
classes '\357\273\277"a;b;c";"id";"dx"\r\n1;s7;"x;y"\r\n' 1 "no line is about a case"
classes 'SITE_ID,SUB_ID,dx\r\nNYU,7,2\r\nNYU,s7,2\r\nKKI,s11,1\r\nKKI,s12,-9999\r\n' 0 "s007	s007	1|s11	s11	0|class 0: dx '1'"
classes 'Site,ScanDir ID,dx\n1,s7,Withheld\n1,s11,0\n1,s12,1\n' 0 "case 's007': kept, without|s11	s11	0|s12	s12	1"
classes 'id,dy\ns7,3\n' 1 "there is no such column|'id' 'dy'"
classes 'id,dx\nt7,3\n' 1 "no line is about a case"
classes 'id,dx\ns7,3\ns007,4\n' 1 "case 's007' has two classes"

classes 'id,dx,dx\ns7,1,0\n' 1 "table.csv: columns 2 and 3 are both called 'dx'"
said '{"cases": [{"id": "007", "images": {"t1": "x.nii"}}, {"id": "7", "images": {"t1": "y.nii"}}]}' 0 007
classes 'id,dx\n7,1\n007,0\n' 0 "007	007	0|7	7	1"
classes 'id,dx\n7,0\n' 0 "case '007': kept, without a class|7	7	0"

# what a list says does not reach the terminal as it stands there
mkdir escape
printf '{"cases": [{"id": "a\\u001b[31mb", "images": {"t1": "x\\u0007.nii"}}]}' >escape/list.json
expect 1 "case 'a_[31mb'|escape/x?.nii: cannot be opened" bmvp prepare --data escape/list.json --out escaped
check "an escape sequence was printed" sh -c '! grep -q "$(printf "\\033")" "$1"' escape "$out"
printf '{"cases": [{"id": "a\\u0085b", "patient": "p\\nq\\u202e", "images": {"t1": "x\\nbmvp: y\\u009b2J\\u2066.nii"}}]}' >escape/list.json
expect 1 "escape/x?bmvp: y??2J???.nii: cannot be opened" bmvp prepare --data escape/list.json --out escaped
expect 0 "a__b	p_q___			t1" bmvp prepare --dry-run --data escape/list.json
printf '{"labels": {"a\\u001b": 1}, "cases": [{"id": "a", "images": {"t1": "x.nii"}}]}' >escape/list.json
expect 1 "has a control character" bmvp prepare --data escape/list.json --out escaped

finish
