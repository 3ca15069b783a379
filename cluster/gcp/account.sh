#!/usr/bin/env bash
# What a project of Google Cloud needs before cluster.yaml beside this file can be used. It may run again; what is there stays.
# Whoever runs it is an owner of the project.
#   PROJECT=... REGION=us-central1 INPUT_BUCKET=... RUN_BUCKET=... bash cluster/gcp/account.sh
# Why not what `ray up` makes by itself: an account whose head may do anything with every machine and every bucket of the project,
# and nodes in the network `default`, which lets the whole world knock at SSH.
set -euo pipefail
: "${PROJECT:?set PROJECT, the id of the project}"
: "${REGION:?set REGION, where the buckets are}"
: "${INPUT_BUCKET:?set INPUT_BUCKET, the bucket of the images, without gs://}"
: "${RUN_BUCKET:?set RUN_BUCKET, the bucket of the run folders, without gs://}"

readonly NAME=anchornet  # cluster_name, network, subnetwork, tag and repository in cluster.yaml
readonly HEAD="$NAME-head@$PROJECT.iam.gserviceaccount.com"
readonly WORKER="$NAME-worker@$PROJECT.iam.gserviceaccount.com"
readonly NODES=10.128.0.0/20   # 4,092 addresses for nodes
readonly IAP=35.235.240.0/20   # what Google's Identity-Aware Proxy comes from; it lets in whom the project's IAM lets in

there() { gcloud "$@" --project="$PROJECT" >/dev/null 2>&1; }
change() { gcloud "$@" --project="$PROJECT" --quiet; }

change services enable compute.googleapis.com iam.googleapis.com iap.googleapis.com \
  artifactregistry.googleapis.com cloudresourcemanager.googleapis.com

# A network of its own, whose nodes have no public addresses and reach Google's services and nothing else.
there compute networks describe "$NAME" ||
  change compute networks create "$NAME" --subnet-mode=custom
there compute networks subnets describe "$NAME" --region="$REGION" ||
  change compute networks subnets create "$NAME" --network="$NAME" --region="$REGION" --range="$NODES" \
    --enable-private-ip-google-access
# Ray uses ports of its choice between nodes, and the head reaches its workers by SSH.
there compute firewall-rules describe "$NAME-inside" ||
  change compute firewall-rules create "$NAME-inside" --network="$NAME" --direction=INGRESS --allow=all \
    --source-tags="$NAME" --target-tags="$NAME"
there compute firewall-rules describe "$NAME-ssh-through-iap" ||
  change compute firewall-rules create "$NAME-ssh-through-iap" --network="$NAME" --direction=INGRESS --allow=tcp:22 \
    --source-ranges="$IAP" --target-tags="$NAME"

# Two accounts. The head starts and ends machines and gives them the worker's account, no other one.
there iam service-accounts describe "$HEAD" ||
  change iam service-accounts create "$NAME-head" --display-name="Head of the Ray cluster $NAME"
there iam service-accounts describe "$WORKER" ||
  change iam service-accounts create "$NAME-worker" --display-name="Workers of the Ray cluster $NAME"
change projects add-iam-policy-binding "$PROJECT" --member="serviceAccount:$HEAD" --role=roles/compute.instanceAdmin.v1 \
  --condition=None
change iam service-accounts add-iam-policy-binding "$WORKER" --member="serviceAccount:$HEAD" --role=roles/iam.serviceAccountUser

# Both read the images and write the run folders: the head lists, keeps the ledger and writes the report. Both pull.
there artifacts repositories describe "$NAME" --location="$REGION" ||
  change artifacts repositories create "$NAME" --location="$REGION" --repository-format=docker
for account in "$HEAD" "$WORKER"; do
  change storage buckets add-iam-policy-binding "gs://$INPUT_BUCKET" --member="serviceAccount:$account" \
    --role=roles/storage.objectViewer
  change storage buckets add-iam-policy-binding "gs://$RUN_BUCKET" --member="serviceAccount:$account" \
    --role=roles/storage.objectUser
  change artifacts repositories add-iam-policy-binding "$NAME" --location="$REGION" --member="serviceAccount:$account" \
    --role=roles/artifactregistry.reader
done

# `ray up` makes this account and hands it compute.admin and storage.objectAdmin, though no node of cluster.yaml uses it, and
# nothing in that file stops it. It takes one that exists, and one that is disabled can do nothing with what it is handed.
readonly UNUSED="ray-autoscaler-sa-v1@$PROJECT.iam.gserviceaccount.com"
there iam service-accounts describe "$UNUSED" ||
  change iam service-accounts create ray-autoscaler-sa-v1 --display-name="Made and armed by ray up, used by nobody"
change iam service-accounts disable "$UNUSED"
