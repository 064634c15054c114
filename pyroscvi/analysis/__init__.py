"""What a fit is used for: functions of (fit, cells), each of them a method of ``Fit``.

The files:

    latent         where cells lie
    representation  the same for files and pictures: probabilities where there are no continuous latents
    denoise        the rate of every gene, under the conditions of a cell or under others
    generate       counts, of cells that there are and of cells that there are not
    effect         what other conditions do to the rates of cells, along a dose too (effect_curve), and how good such
                   predictions are (effect_scores)
    loadings       what a latent dimension does to every gene
    differential   which genes change between groups of cells (with unit_rates, shrinkage and groups)
    domains        the domain of every cell of a tissue, under the page domains
    spatial_genes  which genes vary in space, with error rates: a function of the cells alone
    abundance      which types become more or less frequent between groups of donors
    describe       everything that one pass says, under names
    annotate       the type of a cell, or that it is of no type the fit knows
    probabilities  which component, type or condition a cell is of
    proportions    how much of a cell each topic is
    posterior      what they have in common
    corrected      draws of the posterior instead of the guide's, for all of these functions (``corrected=True``)
"""
