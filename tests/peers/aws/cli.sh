# shellcheck shell=bash
# The AWS CLI's half of the operations. ARN is what the caller is known as.

# cli NAME COMMAND...: one operation; says "ok NAME" when the command succeeds.
cli() {
    local name=$1
    shift
    if "$@"; then echo "ok $name"; else echo "failed $name" >&2; fi
}

# answers WANTED COMMAND...: what AWS answers, as text.
answers() { [[ $("${@:2}" --output text) == "$1" ]]; }

upload() { aws s3 cp --only-show-errors "$FILES/big" "$S3_PATH/big"; }

download() {
    aws s3 cp --only-show-errors "$S3_PATH/big" "$CASE_DIR/$PREFIX-big" &&
        cmp "$CASE_DIR/$PREFIX-big" "$FILES/big"
}

listed() { [[ $(aws s3 ls "$S3_PATH/big") == *" 67108864 big" ]]; }

# A key that a careless proxy would decode, encode or cut.
ODD_KEY='odd/a b+c%2Fd/é?x=1&y#z'

odd_key() {
    aws s3 cp --only-show-errors "$FILES/hello.txt" "$S3_PATH/$ODD_KEY" &&
        aws s3 cp --only-show-errors "$S3_PATH/$ODD_KEY" - | cmp - "$FILES/hello.txt"
}

presigned() { curl -sSf "$(aws s3 presign "$S3_PATH/$ODD_KEY")" | cmp - "$FILES/hello.txt"; }

create_table() {
    answers ACTIVE aws dynamodb create-table --table-name "$PREFIX" \
        --key-schema AttributeName=id,KeyType=HASH --billing-mode PAY_PER_REQUEST \
        --attribute-definitions AttributeName=id,AttributeType=S \
        --query TableDescription.TableStatus
}

put_item() {
    aws dynamodb put-item --table-name "$PREFIX" --item '{"id":{"S":"é"},"n":{"N":"1"}}'
}

query() {
    answers 1 aws dynamodb query --table-name "$PREFIX" --key-condition-expression 'id = :i' \
        --expression-attribute-values '{":i":{"S":"é"}}' --query 'Items[0].n.N'
}

put_record() {
    aws kinesis create-stream --stream-name "$PREFIX" --shard-count 1 &&
        answers shardId-000000000000 aws kinesis put-record --stream-name "$PREFIX" \
            --partition-key k --data aGVsbG8= --query ShardId
}

# cli_operations PREFIX: ten operations on tables, streams and keys of that name.
cli_operations() {
    PREFIX=$1 S3_PATH="s3://peers-bucket/$1"
    export AWS_PAGER="" AWS_MAX_ATTEMPTS=1
    cli upload_64_mib upload
    cli download_64_mib download
    cli ls listed
    cli odd_key odd_key
    cli presigned_get presigned
    cli create_table create_table
    cli put_item put_item
    cli query query
    cli put_record put_record
    cli get_caller_identity answers "$ARN" aws sts get-caller-identity --query Arn
}
