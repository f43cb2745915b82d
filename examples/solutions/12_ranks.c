/* Solutions of lesson 12, with its functions: three ranks; ranks that go on with their own gradients. */
#define main lesson
#include "12_ranks.c"
#undef main

int main(void)
{
    static worker one[1], two[2], three[3], own[2];
    static group nobody;
    double of_three, of_own, own_to_own;
    int i, k, first, count, shared = 0, same, bad;
    for (i = 0; i < CROPS; ++i)
        for (k = 0; k < N; ++k) {
            crop[i][0][k] = (float)(k / (5 + i) % 8 + k / 1024 % 4) / 11;
            crop[i][1][k] = 1 - crop[i][0][k];
        }

    /* 1. Four crops of three ranks: shares differ by one at most. Sums are added in another order than two ranks add
       them: near, but not the same bits, whereas the ranks of one run have the same. */
    for (i = 0; i < 3; ++i) {
        count = bmvp_trainer_share(CROPS, i, 3, &first);
        printf("rank %d of 3 takes crops %d to %d\n", i, first, first + count - 1);
        shared += count;
    }
    run(one, 1, 1), run(two, 2, 1), run(three, 3, 1);
    of_three = apart(two, three), same = apart(&three[0], &three[1]) == 0 && apart(&three[0], &three[2]) == 0;
    printf("two ranks and three: apart by %.1e of the largest; the three: %s\n", of_three,
           same ? "same bits" : "they differ");
    bad = shared != CROPS || !(of_three < 1e-4) || !same;

    /* 2. The share of a rank, but no table in the context: nothing is added up. */
    nobody.size = 2;
    memset(own, 0, sizeof own);
    for (i = 0; i < 2; ++i) {
        join(&own[i].me, &nobody, i, 0);
        own[i].me.of = NULL;
        (void)work(&own[i]);
    }
    of_own = apart(one, own), own_to_own = apart(&own[0], &own[1]);
    printf("each with its own gradients: apart by %.1e from each other, by %.1e from one rank\n", own_to_own, of_own);
    bad |= !(own_to_own > 1e-3) || !(of_own > 1e-3) || own_to_own > 1;
    for (i = 0; i < 2; ++i) free(two[i].end), free(own[i].end);
    for (i = 0; i < 3; ++i) free(three[i].end);
    free(one->end);
    return bad;
}
